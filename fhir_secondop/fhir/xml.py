"""JSON ↔ XML, lossless both ways.

Source: https://hl7.org/fhir/R4/xml.html
"""

from fhir_secondop.fhir.xmlreader import from_xml
from fhir_secondop.fhir.xmlwriter import to_xml

__all__ = ["from_xml", "to_xml"]
