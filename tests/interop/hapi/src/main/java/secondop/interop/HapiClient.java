package secondop.interop;

import ca.uhn.fhir.context.FhirContext;
import ca.uhn.fhir.rest.api.EncodingEnum;
import ca.uhn.fhir.rest.api.MethodOutcome;
import ca.uhn.fhir.rest.api.SearchStyleEnum;
import ca.uhn.fhir.rest.api.SearchTotalModeEnum;
import ca.uhn.fhir.rest.api.SortOrderEnum;
import ca.uhn.fhir.rest.api.SortSpec;
import ca.uhn.fhir.rest.client.api.IGenericClient;
import ca.uhn.fhir.rest.server.exceptions.BaseServerResponseException;
import java.math.BigDecimal;
import java.util.ArrayList;
import java.util.List;
import org.hl7.fhir.r4.model.Bundle;
import org.hl7.fhir.r4.model.CapabilityStatement;
import org.hl7.fhir.r4.model.Observation;
import org.hl7.fhir.r4.model.OperationOutcome;
import org.hl7.fhir.r4.model.Patient;
import org.hl7.fhir.r4.model.Quantity;
import org.hl7.fhir.r4.model.Reference;
import org.hl7.fhir.r4.model.Resource;

/** HAPI's generic client against a FHIR base, in JSON or XML; a line for each thing that it got. */
public class HapiClient {
  public static void main(String[] args) {
    FhirContext context = FhirContext.forR4();
    IGenericClient client = context.newRestfulGenericClient(args[0]);
    client.setEncoding(EncodingEnum.valueOf(args[1]));
    CapabilityStatement said = client.capabilities().ofType(CapabilityStatement.class).execute();
    say("version", said.getFhirVersion().toCode());

    List<String> made = new ArrayList<>();
    for (int number = 0; number < 5; number++) {
      Patient patient = new Patient();
      patient.addName().setFamily("Zimmer" + args[1]).addGiven("N" + number);
      patient.addIdentifier().setSystem("urn:mrn:" + args[1]).setValue("" + number);
      patient.getBirthDateElement().setValueAsString("197" + number + "-01-01");
      MethodOutcome done = client.create().resource(patient).execute();
      made.add(done.getId().getIdPart());
      Observation weight = new Observation();
      weight.setStatus(Observation.ObservationStatus.FINAL).getCode().setText("weight");
      weight.setSubject(new Reference("Patient/" + done.getId().getIdPart()));
      weight.setValue(new Quantity().setValue(new BigDecimal("7" + number + ".50")).setUnit("kg"));
      client.create().resource(weight).execute();
    }
    Patient read = client.read().resource(Patient.class).withId(made.get(2)).execute();
    say("read", read.getNameFirstRep().getGivenAsSingleString(), read.getMeta().getVersionId());
    read.setGender(org.hl7.fhir.r4.model.Enumerations.AdministrativeGender.FEMALE);
    MethodOutcome updated = client.update().resource(read).execute();
    say("updated", updated.getId().getVersionIdPart());
    say("history", "" + client.history().onInstance(read.getIdElement().toUnqualifiedVersionless())
        .returnBundle(Bundle.class).execute().getEntry().size());
    Patient twin = new Patient();
    twin.addIdentifier().setSystem("urn:mrn:" + args[1]).setValue("3");
    say("conditional", "" + made.indexOf(client.create().resource(twin)
        .conditional().where(Patient.IDENTIFIER.exactly().systemAndCode("urn:mrn:" + args[1], "3"))
        .execute().getId().getIdPart()));

    Bundle chained = client.search().forResource(Observation.class)
        .where(Observation.SUBJECT.hasChainedProperty("Patient", Patient.FAMILY.matches().value("zimmer" + args[1])))
        .and(Observation.VALUE_QUANTITY.greaterThan().number("72").andNoUnits())
        .include(Observation.INCLUDE_SUBJECT).totalMode(SearchTotalModeEnum.ACCURATE)
        .returnBundle(Bundle.class).execute();
    say("chained", "" + chained.getTotal(), modes(chained));
    Observation first = (Observation) chained.getEntryFirstRep().getResource();
    say("decimal", first.getValueQuantity().getValue().toPlainString());

    Bundle page = client.search().forResource(Patient.class)
        .where(Patient.FAMILY.matches().value("zimmer" + args[1]))
        .and(Patient.BIRTHDATE.afterOrEquals().day("1971-01-01"))
        .sort(new SortSpec(Patient.SP_BIRTHDATE, SortOrderEnum.DESC)).count(2)
        .usingStyle(SearchStyleEnum.POST).returnBundle(Bundle.class).execute();
    StringBuilder sorted = new StringBuilder(names(page));
    while (page.getLink(Bundle.LINK_NEXT) != null) {
      page = client.loadPage().next(page).execute();
      sorted.append(" | ").append(names(page));
    }
    say("sorted", sorted.toString());
    Bundle backwards = client.search().forResource(Patient.class)
        .where(Patient.RES_ID.exactly().code(made.get(1))).revInclude(Observation.INCLUDE_PATIENT)
        .returnBundle(Bundle.class).execute();
    say("backwards", modes(backwards));
    Bundle has = client.search().byUrl("Patient?_has:Observation:patient:value-quantity=gt73&family=zimmer" + args[1])
        .returnBundle(Bundle.class).execute();
    say("has", names(has));

    Bundle transaction = new Bundle().setType(Bundle.BundleType.TRANSACTION);
    Patient inner = new Patient();
    inner.addName().setFamily("Inner");
    transaction.addEntry().setFullUrl("urn:uuid:9b1c5b5e-0000-4000-8000-000000000001").setResource(inner)
        .getRequest().setMethod(Bundle.HTTPVerb.POST).setUrl("Patient");
    Observation about = new Observation();
    about.setStatus(Observation.ObservationStatus.FINAL).getCode().setText("about");
    about.setSubject(new Reference("urn:uuid:9b1c5b5e-0000-4000-8000-000000000001"));
    transaction.addEntry().setFullUrl("urn:uuid:9b1c5b5e-0000-4000-8000-000000000002").setResource(about)
        .getRequest().setMethod(Bundle.HTTPVerb.POST).setUrl("Observation");
    Bundle done = client.transaction().withBundle(transaction).execute();
    say("transaction", done.getEntry().get(0).getResponse().getStatus(), done.getEntry().get(1).getResponse().getStatus());
    try {
      client.create().resource(new Observation()).execute();
      say("invalid", "taken");
    } catch (BaseServerResponseException refused) {
      OperationOutcome why = (OperationOutcome) refused.getOperationOutcome();
      say("invalid", "" + refused.getStatusCode(), why.getIssueFirstRep().getExpression().get(0).getValue());
    }
  }

  private static String modes(Bundle bundle) {
    StringBuilder found = new StringBuilder();
    for (Bundle.BundleEntryComponent entry : bundle.getEntry()) {
      found.append(entry.getSearch().getMode().toCode().charAt(0));
    }
    return found.toString();
  }

  private static String names(Bundle bundle) {
    List<String> found = new ArrayList<>();
    for (Bundle.BundleEntryComponent entry : bundle.getEntry()) {
      Resource each = entry.getResource();
      found.add(((Patient) each).getNameFirstRep().getGivenAsSingleString());
    }
    return String.join(" ", found);
  }

  private static void say(String what, String... said) {
    System.out.println(what + ": " + String.join(" ", said));
  }
}
