"""JSON ↔ XML, lossless both ways.

Source: https://hl7.org/fhir/R4/xml.html
"""

from fhir_secondop.fhir.xmlreader import from_xml
from fhir_secondop.fhir.xmlwriter import bundle_to_xml, to_xml

__all__ = ["bundle_to_xml", "from_xml", "to_xml"]
