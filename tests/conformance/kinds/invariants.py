"""R4's written invariants: per key a change of an object of that type that breaks it, and one that only comes near.

Source: the constraints of the R4 definitions (https://hl7.org/fhir/R4/downloads.html).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from tests.conformance.kinds import Kind
from tests.conformance.kinds.extensions import URL, added
from tests.conformance.nodes import Example, Json, Site, site
from tests.conformance.notation import Number, parse

Edit = Callable[[Json], Any]
UCUM = "http://unitsofmeasure.org"
TERMINOLOGY = "http://terminology.hl7.org/CodeSystem/"


def put(text: str, *drop: str) -> Edit:
    """Members to set, as JSON; and elements to take away first (of a choice, all its members)."""
    values = parse(text)

    def edit(target: Json) -> None:
        for name in drop:
            for key in [k for k in target if k == name or (k.startswith(name) and k[len(name)].isupper())]:
                del target[key]
        target.update(values)

    return edit


def drop(*names: str) -> Edit:
    return put("{}", *names)


def coded(name: str, system: str, code: str) -> str:
    return f'"{name}":{{"coding":[{{"system":"{TERMINOLOGY}{system}","code":"{code}"}}]}}'


AGE = f'"system":"{UCUM}","code":"a"'
RETIRED = coded("verificationStatus", "condition-ver-status", "entered-in-error")
ACTIVE = coded("clinicalStatus", "condition-clinical", "active")
RESOLVED = coded("clinicalStatus", "condition-clinical", "resolved")
CONCEPT = '{"text":"x"}'
ITEM = '"linkId":"a","text":"x"'

# (key, type of object, change that breaks it)
BROKEN: list[tuple[str, str, Edit]] = [
    ("age-1", "Age", drop("code")),
    ("age-1", "Age", put('{"value":-1}')),
    ("age-1", "Age", put('{"system":"http://x.example"}')),
    ("ait-1", "AllergyIntolerance", drop("clinicalStatus")),
    (
        "ait-2",
        "AllergyIntolerance",
        put("{" + coded("verificationStatus", "allergyintolerance-verification", "entered-in-error") + "}"),
    ),
    ("app-1", "Appointment.participant", drop("type", "actor")),
    ("app-2", "Appointment", put('{"status":"proposed","start":"2024-01-01T10:00:00Z"}', "end")),
    ("app-3", "Appointment", put('{"status":"booked"}', "start", "end")),
    ("app-4", "Appointment", put('{"status":"booked","cancelationReason":{"text":"x"}}')),
    ("apr-1", "AppointmentResponse", drop("participantType", "actor")),
    ("att-1", "Attachment", put('{"data":"YQ=="}', "contentType", "hash", "size")),
    ("sev-1", "AuditEvent.entity", put('{"name":"x","query":"YQ=="}')),
    ("cpb-1", "CapabilityStatement", drop("rest", "messaging", "document")),
    (
        "cpb-3",
        "CapabilityStatement",
        put(
            '{"kind":"capability","software":{"name":"x"},"messaging":[{"endpoint":'
            f'[{{"protocol":{{"system":"{TERMINOLOGY}message-transport","code":"http"}},"address":"http://x.example"}}]}}]}}',
            "implementation",
        ),
    ),
    ("cpb-9", "CapabilityStatement.rest", put('{"resource":[{"type":"Patient"},{"type":"Patient"}]}')),
    (
        "cpb-12",
        "CapabilityStatement.rest.resource",
        put('{"searchParam":[{"name":"a","type":"token"},{"name":"a","type":"token"}]}'),
    ),
    ("cpb-14", "CapabilityStatement", put('{"kind":"instance"}', "implementation")),
    ("cpb-15", "CapabilityStatement", put('{"kind":"capability"}', "software", "implementation")),
    ("cpb-16", "CapabilityStatement", put('{"kind":"requirements","software":{"name":"x"}}', "implementation")),
    ("cpl-3", "CarePlan.activity", put('{"detail":{"status":"completed"},"reference":{"display":"x"}}')),
    ("csd-1", "CodeSystem", put('{"concept":[{"code":"a","display":"x"},{"code":"a","display":"y"}]}', "count")),
    ("cmp-1", "Composition.section", drop("text", "entry", "section")),
    ("cmp-2", "Composition.section", put('{"emptyReason":{"text":"x"},"entry":[{"display":"x"}]}')),
    ("cmd-1", "ConceptMap.group.element.target", put('{"equivalence":"narrower"}', "comment")),
    ("cmd-2", "ConceptMap.group.unmapped", put('{"mode":"fixed"}', "code")),
    ("cmd-3", "ConceptMap.group.unmapped", put('{"mode":"other-map"}', "url")),
    ("con-1", "Condition.stage", drop("summary", "assessment")),
    ("con-2", "Condition.evidence", drop("code", "detail")),
    ("con-4", "Condition", put("{" + ACTIVE + ',"abatementString":"x"}', "abatement")),
    ("con-5", "Condition", put("{" + RETIRED + "," + RESOLVED + "}", "abatement")),
    ("ppc-1", "Consent", drop("policy", "policyRule")),
    ("cpt-2", "ContactPoint", put('{"value":"x"}', "system")),
    (
        "ces-1",
        "CoverageEligibilityResponse.insurance.item",
        put('{"category":{"text":"x"},"productOrService":{"text":"x"}}'),
    ),
    ("drq-1", "DataRequirement.codeFilter", put('{"path":"a","searchParam":"b"}')),
    ("drq-2", "DataRequirement.dateFilter", put('{"path":"a","searchParam":"b"}')),
    ("drt-1", "Duration", put('{"code":"d","value":1}', "system")),
    ("drt-1", "Duration", put(f'{{"code":"d","system":"{UCUM}"}}', "value")),
    ("eld-2", "ElementDefinition", put('{"min":2,"max":"1"}')),
    ("eld-8", "ElementDefinition", put('{"fixedString":"x","patternString":"x"}')),
    (
        "eld-14",
        "ElementDefinition",
        put(
            '{"constraint":[{"key":"a","severity":"error","human":"x","expression":"true"},'
            '{"key":"a","severity":"error","human":"x","expression":"true"}]}'
        ),
    ),
    ("eld-15", "ElementDefinition", put('{"defaultValueString":"x","meaningWhenMissing":"x"}')),
    ("eld-16", "ElementDefinition", put('{"sliceName":"a b"}')),
    ("eld-18", "ElementDefinition", put('{"isModifier":true}', "isModifierReason")),
    ("eld-22", "ElementDefinition", put('{"sliceIsConstraining":true}', "sliceName")),
    ("exp-1", "Expression", drop("expression", "reference")),
    ("fhs-1", "FamilyMemberHistory", put(f'{{"ageAge":{{"value":1,{AGE}}},"bornDate":"2000"}}', "age", "born")),
    ("fhs-2", "FamilyMemberHistory", put('{"estimatedAge":true}', "age")),
    ("gol-1", "Goal.target", put('{"detailString":"x"}', "measure", "detail")),
    ("grp-1", "Group", put('{"actual":false,"member":[{"entity":{"reference":"Patient/1"}}]}')),
    ("imm-1", "Immunization.education", drop("documentType", "reference")),
    ("imr-1", "ImmunizationRecommendation.recommendation", drop("vaccineCode", "targetDisease")),
    (
        "ig-1",
        "ImplementationGuide.definition",
        put('{"resource":[{"reference":{"reference":"Patient/1"},"groupingId":"nowhere"}]}'),
    ),
    ("ipn-1", "InsurancePlan", drop("identifier", "name")),
    ("lnk-1", "Linkage", put('{"item":[{"type":"source","resource":{"reference":"Patient/1"}}]}')),
    ("lst-1", "List", put('{"emptyReason":{"text":"x"},"entry":[{"item":{"display":"x"}}]}')),
    ("lst-2", "List", put('{"mode":"snapshot","entry":[{"deleted":true,"item":{"display":"x"}}]}', "emptyReason")),
    ("lst-3", "List", put('{"mode":"snapshot","entry":[{"date":"2024","item":{"display":"x"}}]}', "emptyReason")),
    (
        "mea-1",
        "Measure",
        put(
            '{"group":[{"stratifier":[{"description":"x","component":[{"criteria":'
            '{"language":"text/fhirpath","expression":"true"}}]}]}]}'
        ),
    ),
    ("mrp-1", "MeasureReport", put('{"type":"data-collection","group":[{"code":{"text":"x"}}]}')),
    (
        "mrp-2",
        "MeasureReport",
        put('{"type":"summary","group":[{"stratifier":[{"stratum":[{"measureScore":{"value":1}}]}]}]}'),
    ),
    ("mad-1", "MedicationAdministration.dosage", put('{"text":"x"}', "dose", "rate")),
    ("mdd-1", "MedicationDispense", put('{"whenPrepared":"2024-01-02","whenHandedOver":"2024-01-01"}')),
    ("md-1", "MessageDefinition.focus", put('{"max":"0"}')),
    ("msq-3", "MolecularSequence", put('{"coordinateSystem":2}')),
    (
        "msq-5",
        "MolecularSequence.referenceSeq",
        put(
            '{"chromosome":{"text":"x"},"referenceSeqString":"ACGT"}',
            "genomeBuild",
            "referenceSeqId",
            "referenceSeqPointer",
        ),
    ),
    (
        "msq-6",
        "MolecularSequence.referenceSeq",
        put(
            '{"referenceSeqString":"A","referenceSeqId":{"text":"x"}}',
            "genomeBuild",
            "chromosome",
            "referenceSeqPointer",
        ),
    ),
    (
        "nsd-1",
        "NamingSystem",
        put(
            '{"kind":"root","uniqueId":[{"type":"uuid","value":"6f9a0c8e-1f5c-4b5e-9d5c-0f6f5d1c2b3a"}]}', "replacedBy"
        ),
    ),
    (
        "nsd-2",
        "NamingSystem",
        put(
            '{"uniqueId":[{"type":"uri","value":"http://a.example","preferred":true},'
            '{"type":"uri","value":"http://b.example","preferred":true}]}'
        ),
    ),
    ("obs-3", "Observation.referenceRange", put('{"appliesTo":[{"text":"x"}]}', "low", "high", "text")),
    ("obs-6", "Observation", put('{"dataAbsentReason":{"text":"x"},"valueString":"x"}', "value")),
    (
        "obs-7",
        "Observation",
        put(
            '{"code":{"coding":[{"system":"http://x.example","code":"a"}]},"valueString":"x",'
            '"component":[{"code":{"coding":[{"system":"http://x.example","code":"a"}]},"valueString":"x"}]}',
            "value",
            "dataAbsentReason",
        ),
    ),
    ("opd-1", "OperationDefinition.parameter", drop("type", "part", "searchType", "binding", "targetProfile")),
    ("opd-2", "OperationDefinition.parameter", put('{"searchType":"token","type":"code"}', "binding", "part")),
    (
        "opd-3",
        "OperationDefinition.parameter",
        put(
            '{"type":"string","targetProfile":["http://hl7.org/fhir/StructureDefinition/Patient"]}',
            "part",
            "binding",
            "searchType",
        ),
    ),
    ("org-1", "Organization", drop("identifier", "name")),
    ("org-2", "Organization", put('{"address":[{"use":"home","text":"x"}]}')),
    ("org-3", "Organization", put('{"telecom":[{"use":"home","system":"phone","value":"1"}]}')),
    ("inv-1 (Parameters)", "Parameters.parameter", drop("value", "resource", "part")),
    (
        "inv-1 (Parameters)",
        "Parameters.parameter",
        put('{"valueString":"x","part":[{"name":"a","valueString":"x"}]}', "value", "resource"),
    ),
    ("pat-1", "Patient", put('{"contact":[{"relationship":[{"text":"x"}]}]}')),
    ("per-1", "Period", put('{"start":"2024-02-01","end":"2024-01-01"}')),
    ("per-1", "Period", put('{"start":"2024-01-01T10:00:00+02:00","end":"2024-01-01T07:59:59Z"}')),
    ("per-1", "Period", put('{"start":"2025","end":"2024"}')),
    ("qty-3", "Quantity", put('{"code":"mg"}', "system")),
    ("mqty-1", "Timing.repeat", put('{"boundsDuration":{"value":1,"code":"d"}}', "bounds")),
    (
        "que-1",
        "Questionnaire.item",
        put('{"type":"group"}', "item", "answerOption", "answerValueSet", "initial", "maxLength"),
    ),
    (
        "que-1",
        "Questionnaire.item",
        put(
            '{"type":"display","item":[{' + ITEM.replace('"a"', '"b"') + ',"type":"string"}]}',
            "answerOption",
            "answerValueSet",
            "initial",
            "maxLength",
            "code",
            "required",
            "repeats",
            "readOnly",
        ),
    ),
    ("que-2", "Questionnaire", put('{"item":[{' + ITEM + ',"type":"string"},{' + ITEM + ',"type":"string"}]}')),
    ("que-2", "Questionnaire", put('{"item":[{' + ITEM + ',"type":"group","item":[{' + ITEM + ',"type":"string"}]}]}')),
]

SIMPLE = "answerOption", "answerValueSet", "initial", "maxLength", "code", "required", "repeats", "readOnly", "item"
BROKEN += [
    ("que-3", "Questionnaire.item", put('{"type":"display","code":[{"system":"http://x.example","code":"a"}]}',
     *SIMPLE)),
    ("que-4", "Questionnaire.item", put('{"type":"choice","answerOption":[{"valueString":"x"}],"answerValueSet":'
                                        '"http://x.example/vs"}', *SIMPLE)),
    ("que-5", "Questionnaire.item", put('{"type":"boolean","answerOption":[{"valueString":"x"}]}', *SIMPLE)),
    ("que-6", "Questionnaire.item", put('{"type":"display","required":true}', *SIMPLE)),
    ("que-6", "Questionnaire.item", put('{"type":"display","repeats":true}', *SIMPLE)),
    ("que-7", "Questionnaire.item", put('{"enableWhen":[{"question":"a","operator":"exists","answerString":"x"}]}')),
    ("que-8", "Questionnaire.item", put('{"type":"display","initial":[{"valueString":"x"}]}', *SIMPLE)),
    ("que-9", "Questionnaire.item", put('{"type":"display","readOnly":true}', *SIMPLE)),
    ("que-10", "Questionnaire.item", put('{"type":"date","maxLength":5}', *SIMPLE)),
    ("que-11", "Questionnaire.item", put('{"type":"choice","answerOption":[{"valueString":"x"}],"initial":'
                                         '[{"valueString":"x"}]}', *SIMPLE)),
    ("que-12", "Questionnaire.item", put('{"enableWhen":[{"question":"a","operator":"exists","answerBoolean":true},'
     '{"question":"b","operator":"exists","answerBoolean":true},{"question":"c","operator":"exists","answerBoolean":'
     'true}]}', "enableBehavior")),
    ("que-13", "Questionnaire.item", put('{"type":"string","initial":[{"valueString":"x"},{"valueString":"y"}]}',
     *SIMPLE)),
    ("qrs-1", "QuestionnaireResponse", put('{"item":[{"linkId":"a","answer":[{"valueString":"x"}],"item":[{"linkId":'
                                           '"b"}]}]}')),
    ("rng-2", "Range", put('{"low":{"value":2},"high":{"value":1}}')),
    ("rng-2", "Range", put(f'{{"low":{{"value":2,"system":"{UCUM}","code":"mg"}},"high":{{"value":1.5,"system":'
                           f'"{UCUM}","code":"mg"}}}}')),
    ("rat-1", "Ratio", drop("denominator")),
    ("rat-1", "Ratio", drop("numerator", "denominator")),
    ("rqg-1", "RequestGroup.action", put('{"title":"x"}', "resource", "action")),
    ("ras-2", "RiskAssessment.prediction", put('{"probabilityDecimal":100.1}', "probability", "qualitativeRisk")),
    ("ras-1", "RiskAssessment.prediction", put('{"probabilityRange":{"low":{"value":1},"high":{"value":2}}}',
     "probability")),
    ("spd-1", "SearchParameter", put('{"xpath":"x"}', "xpathUsage")),
    ("spd-2", "SearchParameter", put('{"type":"token","chain":["a"]}', "target")),
    ("prr-1", "ServiceRequest", put('{"orderDetail":[{"text":"x"}]}', "code")),
    ("sqty-1", "Range", put('{"low":{"value":1,"comparator":"<"}}', "low", "high")),
    ("sdf-4", "StructureDefinition", put('{"abstract":false}', "baseDefinition")),
    ("sdf-6", "StructureDefinition", drop("snapshot", "differential")),
    ("sdf-18", "StructureDefinition", put('{"contextInvariant":["true"]}')),
    ("sdf-5", "StructureDefinition", put('{"type":"Extension","baseDefinition":'
     '"http://hl7.org/fhir/StructureDefinition/Extension","kind":"complex-type","differential":{"element":'
     '[{"id":"Extension","path":"Extension"}]}}', "context")),
    ("sdf-8a", "StructureDefinition.differential", put('{"element":[{"id":"Observation","path":"Observation"}]}')),
    ("sdf-17", "StructureDefinition.differential", put('{"element":[{"id":"Patient","path":"Patient"},{"id":"Patient",'
     '"path":"Patient.birthDate"}]}')),
    ("sdf-20", "StructureDefinition.differential", put('{"element":[{"id":"Patient","path":"Patient","slicing":'
     '{"rules":"open","description":"x"}}]}')),
    ("sdf-23", "StructureDefinition.differential", put('{"element":[{"id":"Patient","path":"Patient",'
     '"sliceName":"a"}]}')),
    ("sdf-2", "StructureDefinition", put('{"mapping":[{"identity":"a"}]}')),
    ("sdf-3", "StructureDefinition", put('{"snapshot":{"element":[{"id":"Patient","path":"Patient"}]}}')),
    ("sdf-9", "StructureDefinition.differential", put('{"element":[{"id":"Patient","path":"Patient","label":"x"}]}')),
    ("sdf-14", "StructureDefinition.differential", put('{"element":[{"path":"Patient"}]}')),
    ("sdf-15a", "StructureDefinition.differential", put('{"element":[{"id":"Patient","path":"Patient","type":'
     '[{"code":"Patient"}]}]}')),
    ("cpb-2", "CapabilityStatement", put('{"kind":"requirements"}', "description", "software", "implementation")),
    ("cpb-7", "CapabilityStatement", put('{"document":[{"mode":"producer","profile":"http://x.example/p"},'
     '{"mode":"producer","profile":"http://x.example/p"}]}')),
    ("ig-2", "ImplementationGuide", put('{"definition":{"resource":[{"reference":{"reference":"Patient/1"},'
     '"fhirVersion":["4.0.0"]}]}}')),
    ("inv-2 (TestReport)", "TestReport.test.action", put("{}", "operation", "assert")),
    ("tst-5", "TestScript.setup.action.assert", put('{"response":"okay","contentType":"json"}')),
    ("tst-6", "TestScript.test.action.assert", put('{"response":"okay","contentType":"json"}')),
    ("tst-7", "TestScript.setup.action.operation", drop("url", "params", "sourceId", "targetId", "type")),
    ("tst-8", "TestScript.test.action.operation", drop("url", "params", "sourceId", "targetId", "type")),
    ("tst-9", "TestScript.teardown.action.operation", drop("url", "params", "sourceId", "targetId", "type")),
    ("tst-10", "TestScript.setup.action.assert", put('{"compareToSourceId":"f"}')),
    ("tst-11", "TestScript.test.action.assert", put('{"compareToSourceId":"f"}')),
    ("tst-12", "TestScript.setup.action.assert", put('{"direction":"request","response":"okay"}')),
    ("tst-13", "TestScript.test.action.assert", put('{"direction":"request","response":"okay"}')),
    ("eld-1", "ElementDefinition", put('{"slicing":{"rules":"open"}}')),
    ("eld-3", "ElementDefinition", put('{"max":"-1"}')),
    ("eld-4", "ElementDefinition", put('{"type":[{"code":"string","aggregation":["contained"]}]}')),
    ("eld-5", "ElementDefinition", put('{"contentReference":"#Patient","type":[{"code":"string"}]}')),
    ("eld-6", "ElementDefinition", put('{"fixedString":"x","type":[{"code":"string"},{"code":"code"}]}')),
    ("eld-7", "ElementDefinition", put('{"patternString":"x","type":[{"code":"string"},{"code":"code"}]}')),
    ("eld-11", "ElementDefinition", put('{"type":[{"code":"boolean"}],"binding":{"strength":"example"}}')),
    ("eld-12", "ElementDefinition", put('{"binding":{"strength":"example","valueSet":"x"}}')),
    ("eld-13", "ElementDefinition", put('{"type":[{"code":"date"},{"code":"date"}]}')),
    ("eld-17", "ElementDefinition", put('{"type":[{"code":"string","targetProfile":["http://x.example/p"]}]}')),
    ("eld-19", "ElementDefinition", put('{"path":"Patient..a"}')),
    ("tcp-1", "TerminologyCapabilities", put('{"codeSystem":[{"version":[{"isDefault":true},{"isDefault":false}]}]}')),
    ("tcp-4", "TerminologyCapabilities", put('{"kind":"capability"}', "software", "implementation")),
    ("smp-1", "StructureMap.group.rule.target", put('{"element":"a"}', "context", "contextType")),
    ("smp-2", "StructureMap.group.rule.target", put('{"context":"a"}', "contextType")),
    ("inv-1 (Task)", "Task", put('{"authoredOn":"2024-01-02","lastModified":"2024-01-01"}')),
    ("tcp-2", "TerminologyCapabilities", drop("description", "software", "implementation")),
    ("tcp-3", "TerminologyCapabilities", put('{"kind":"instance"}', "implementation")),
    ("tcp-5", "TerminologyCapabilities", put('{"kind":"requirements","software":{"name":"x"}}', "implementation")),
    ("tst-1", "TestScript.setup.action", put("{}", "operation", "assert")),
    ("tst-2", "TestScript.test.action", put("{}", "operation", "assert")),
    ("tst-3", "TestScript.variable", put('{"expression":"a","headerField":"b","path":"c"}')),
    ("inv-1 (TestReport)", "TestReport.setup.action", put("{}", "operation", "assert")),
    ("tim-1", "Timing.repeat", put('{"duration":1}', "durationUnit")),
    ("tim-2", "Timing.repeat", put('{"period":1}', "periodUnit")),
    ("tim-4", "Timing.repeat", put('{"duration":-1,"durationUnit":"h"}')),
    ("tim-5", "Timing.repeat", put('{"period":-1,"periodUnit":"h"}')),
    ("tim-6", "Timing.repeat", put('{"periodMax":1,"periodUnit":"h"}', "period")),
    ("tim-7", "Timing.repeat", put('{"durationMax":1,"durationUnit":"h"}', "duration")),
    ("tim-8", "Timing.repeat", put('{"countMax":1}', "count")),
    ("tim-9", "Timing.repeat", put('{"offset":1}', "when", "timeOfDay")),
    ("tim-9", "Timing.repeat", put('{"offset":1,"when":["C"]}', "timeOfDay")),
    ("tim-10", "Timing.repeat", put('{"when":["MORN"],"timeOfDay":["10:00:00"]}')),
    ("trd-1", "TriggerDefinition", put('{"type":"data-added","data":[{"type":"Patient"}],"timingDate":"2024"}',
     "timing")),
    ("trd-2", "TriggerDefinition", put('{"type":"named-event","name":"x","condition":{"language":"text/fhirpath",'
                                       '"expression":"true"}}', "data")),
    ("trd-3", "TriggerDefinition", put('{"type":"named-event"}', "name", "data", "condition")),
    ("vsd-1", "ValueSet.compose.include", drop("system", "valueSet", "concept", "filter", "version")),
    ("vsd-2", "ValueSet.compose.include", put('{"concept":[{"code":"a"}],"valueSet":["http://x.example/vs"]}', "system",
                                              "filter", "version")),
    ("vsd-3", "ValueSet.compose.include", put('{"system":"http://x.example","concept":[{"code":"a"}],"filter":[{"property":'
                                              '"a","op":"=","value":"b"}]}')),
    ("vsd-6", "ValueSet.expansion.contains", put('{"abstract":true}', "code", "display", "contains", "designation")),
    ("vsd-9", "ValueSet.expansion.contains", put('{"display":"x"}', "code", "abstract", "contains")),
    ("vsd-10", "ValueSet.expansion.contains", put('{"code":"x"}', "system", "version", "contains")),
    # Of these the definition is wrong in other ways, too: HL7's publisher makes snapshots, and compares.
    ("sdf-1", "StructureDefinition", put('{"derivation":"specialization","snapshot":{"element":[{"id":"Patient","path":'
     '"Patient"},{"id":"Patient.a","path":"Patient.a"},{"id":"Patient.b","path":"Patient.a"}]}}')),
    ("sdf-8", "StructureDefinition", put('{"snapshot":{"element":[{"id":"Patient","path":"Patient"},{"id":'
     '"Observation.code","path":"Observation.code"}]}}')),
    ("sdf-10", "StructureDefinition", put('{"snapshot":{"element":[{"id":"Patient","path":"Patient"},{"id":'
     '"Patient.gender","path":"Patient.gender","binding":{"strength":"required"}}]}}')),
    ("sdf-11", "StructureDefinition", put('{"snapshot":{"element":[{"id":"Observation","path":"Observation"}]}}')),
    ("sdf-15", "StructureDefinition", put('{"snapshot":{"element":[{"id":"Patient","path":"Patient","type":'
     '[{"code":"Patient"}]}]}}')),
    ("sdf-16", "StructureDefinition", put('{"snapshot":{"element":[{"id":"Patient","path":"Patient"},{"id":"Patient",'
     '"path":"Patient.gender"}]}}')),
    ("sdf-19", "StructureDefinition", put('{"url":"http://hl7.org/fhir/StructureDefinition/x","differential":{"element":'
     '[{"id":"Patient","path":"Patient"},{"id":"Patient.gender","path":"Patient.gender","type":[{"code":'
     '"http://x.example/code"}]}]}}')),
    ("sdf-22", "StructureDefinition", put('{"url":"http://hl7.org/fhir/StructureDefinition/x","differential":{"element":'
     '[{"id":"Patient","path":"Patient"},{"id":"Patient.gender","path":"Patient.gender","defaultValueCode":"male"}]}}')),
    ("tst-4", "TestScript", put('{"metadata":{"link":[{"url":"http://x.example"}],"capability":[{"capabilities":'
                                '"http://x.example/c"}]}}')),
    *((key, "Consent", put(f'{{"scope":{{"coding":[{{"system":"something","code":"{code}"}}]}}}}', "patient"))
      for key, code in (("ppc-2", "patient-privacy"), ("ppc-3", "research"), ("ppc-4", "adr"), ("ppc-5", "treatment"))),
    ("ctm-1", "CareTeam", put('{"contained":[{"resourceType":"Patient","id":"a"}],"participant":[{"member":'
                              '{"reference":"#a"},"onBehalfOf":{"display":"x"}}]}')),
    ("dom-2", "Patient", put('{"contained":[{"resourceType":"Organization","id":"a","name":"x","contained":[{'
                             '"resourceType":"Organization","id":"b","name":"x"}]}],"managingOrganization":'
                             '{"reference":"#a"}}')),
]  # fmt: skip

# (name, type of object, change): each within the rule
NEAR: list[tuple[str, str, Edit]] = [
    ("period of a moment", "Period", put('{"start":"2024-01-01","end":"2024-01-01"}')),
    ("period, end less exact", "Period", put('{"start":"2024-02-10","end":"2024-02"}')),
    ("period, start less exact", "Period", put('{"start":"2024-02","end":"2024-02-01"}')),
    ("period, end less exact and before", "Period", put('{"start":"2024-02-10","end":"2024-01"}')),
    ("period, same moment in two zones", "Period", put('{"start":"2024-01-01T10:00:00+02:00","end":'
                                                      '"2024-01-01T08:00:00Z"}')),
    ("period, fraction of a second", "Period", put('{"start":"2024-01-01T10:00:00.5Z",'
     '"end":"2024-01-01T10:00:00.50Z"}')),
    ("period, date and time", "Period", put('{"start":"2024-01-01","end":"2024-01-01T00:00:00Z"}')),
    ("period, start with extension alone", "Period", put('{"_start":{"extension":[{"url":"http://x.example/e",'
                                                         '"valueString":"x"}]}}', "start")),
    ("period, open", "Period", put('{"start":"2024"}', "end")),
    ("range of one", "Range", put('{"low":{"value":1},"high":{"value":1.0}}')),
    ("range of two units", "Range", put(f'{{"low":{{"value":2,"system":"{UCUM}","code":"g"}},"high":{{"value":3000,'
                                        f'"system":"{UCUM}","code":"mg"}}}}')),
    ("range in words", "Range", put('{"low":{"value":2,"unit":"a"},"high":{"value":1,"unit":"b"}}')),
    ("quantity without code", "Quantity", put('{"unit":"mg"}', "code", "system")),
    ("quantity with system alone", "Quantity", put('{"system":"http://x.example"}', "code")),
    ("ratio with an extension alone", "Ratio", put('{"extension":[{"url":"http://x.example/e","valueString":"x"}]}',
                                                   "numerator", "denominator")),
    ("contact point without system and value", "ContactPoint", put('{"use":"work"}', "system", "value")),
    ("contact point, value is an extension", "ContactPoint", put('{"_value":{"extension":[{"url":"http://x.example/e",'
                                                                 '"valueString":"x"}]}}', "value", "system")),
    ("attachment of nothing but a title", "Attachment", put('{"title":"x"}', "data", "url", "hash", "size")),
    ("contact of an organization", "Patient", put('{"contact":[{"organization":{"display":"x"}}]}')),
    ("contact with an empty name but an extension", "Patient", put('{"contact":[{"name":{"extension":[{"url":'
                                                                   '"http://x.example/e","valueString":"x"}]}}]}')),
    ("value absent", "Observation", put('{"dataAbsentReason":{"text":"x"}}', "value")),
    ("component of another code", "Observation", put('{"code":{"coding":[{"system":"http://x.example","code":"a"}]},'
     '"valueString":"x","component":[{"code":{"coding":[{"system":"http://x.example","code":"b"}]},"valueString":"x"}]}',
     "value", "dataAbsentReason")),
    ("component of the same words", "Observation", put('{"code":{"text":"a"},"valueString":"x","component":[{"code":'
     '{"text":"a"},"valueString":"x"}]}', "value", "dataAbsentReason")),
    ("component of the same code, no value", "Observation", put('{"code":{"coding":[{"system":"http://x.example",'
     '"code":"a"}]},"component":[{"code":{"coding":[{"system":"http://x.example","code":"a"}]},"valueString":"x"}]}',
     "value", "dataAbsentReason")),
    ("modified at once", "Task", put('{"authoredOn":"2024-01-02","lastModified":"2024-01-02"}')),
    ("modified, less exact", "Task", put('{"authoredOn":"2024-01-02","lastModified":"2024"}')),
    ("handed over at once", "MedicationDispense", put('{"whenPrepared":"2024-01-01","whenHandedOver":"2024-01-01"}')),
    ("appointment proposed", "Appointment", put('{"status":"proposed"}', "start", "end", "cancelationReason")),
    ("condition over", "Condition", put("{" + RESOLVED + "," + coded("verificationStatus", "condition-ver-status",
                                        "confirmed") + ',"abatementDateTime":"2024"}', "abatement")),
    ("condition in error", "Condition", put("{" + RETIRED + "}", "clinicalStatus", "abatement")),
    ("organization without name", "Organization", put('{"identifier":[{"value":"x"}]}', "name")),
    ("empty section with a reason", "Composition.section", put('{"emptyReason":{"text":"x"},"text":{"status":'
     '"generated","div":"<div xmlns=\\"http://www.w3.org/1999/xhtml\\">x</div>"}}', "entry")),
    ("probability 100", "RiskAssessment.prediction", put('{"probabilityDecimal":100}', "probability")),
    ("duration of nothing", "Duration", put('{"unit":"d"}', "code", "system", "value")),
    ("timing with offset", "Timing.repeat", put('{"offset":1,"when":["ACM"]}', "timeOfDay")),
    ("name not for computers", "ValueSet", put('{"name":"a name"}')),
    ("con-3, which only warns", "Condition", put("{" + coded("verificationStatus", "condition-ver-status", "confirmed")
     + ',"category":[{"coding":[{"system":"' + TERMINOLOGY + 'condition-category","code":"problem-list-item"}]}]}',
     "clinicalStatus", "abatement")),
    # ctm-1 holds whenever the member can't be resolved.
    ("care team, a patient on behalf of", "CareTeam.participant", put('{"onBehalfOf":{"display":"x"},"member":'
                                                                      '{"reference":"Patient/1"}}')),
    ("care team on behalf of", "CareTeam.participant", put('{"onBehalfOf":{"display":"x"},"member":{"reference":'
                                                           '"Practitioner/1"}}')),
    ("care team, a contained practitioner on behalf of", "CareTeam", put('{"contained":[{"resourceType":"Practitioner",'
     '"id":"a"}],"participant":[{"member":{"reference":"#a"},"onBehalfOf":{"display":"x"}}]}')),
    ("value set without systems", "ValueSet.compose.include", put('{"valueSet":["http://x.example/vs"]}', "system",
                                                                  "concept", "filter", "version")),
]  # fmt: skip


def of(type_name: str, edit: Edit) -> Callable[[Example], Iterator[Site]]:
    def sites(example: Example) -> Iterator[Site]:
        for node in example.nodes:
            # A Questionnaire's groups have children whose fate is another rule's business.
            if node.type == type_name and not ("item" in node.value and type_name == "Questionnaire.item"):
                yield site(node, example.type, edit)

    return sites


def _numbered() -> Iterator[tuple[str, str, Edit]]:
    """The changes with names of their own: "per-1", "per-1, 2"."""
    seen: Counter[str] = Counter()
    for key, type_name, edit in BROKEN:
        seen[key] += 1
        yield (key if seen[key] == 1 else f"{key}, {seen[key]}"), type_name, edit


KINDS = [
    *(Kind("invariant", variant, 6, of(type_name, edit)) for variant, type_name, edit in _numbered()),
    Kind(
        "invariant",
        "cnt-3",
        6,
        added({"url": URL, "valueCount": {"value": Number("1.5"), "system": UCUM, "code": "1"}}),
    ),
    Kind("invariant", "dis-1", 6, added({"url": URL, "valueDistance": {"value": Number("1"), "system": UCUM}})),
    *(Kind("harmless: near an invariant", name, 6, of(type_name, edit), valid=None) for name, type_name, edit in NEAR),
]
