package secondop.interop;

import ca.uhn.fhir.context.FhirContext;
import ca.uhn.fhir.context.support.DefaultProfileValidationSupport;
import ca.uhn.fhir.context.support.IValidationSupport;
import ca.uhn.fhir.context.support.ValidationSupportContext;
import ca.uhn.fhir.validation.FhirValidator;
import ca.uhn.fhir.validation.SingleValidationMessage;
import ca.uhn.fhir.validation.ValidationOptions;
import com.google.gson.Gson;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import org.hl7.fhir.common.hapi.validation.support.CommonCodeSystemsTerminologyService;
import org.hl7.fhir.common.hapi.validation.support.InMemoryTerminologyServerValidationSupport;
import org.hl7.fhir.common.hapi.validation.support.NpmPackageValidationSupport;
import org.hl7.fhir.common.hapi.validation.support.PrePopulatedValidationSupport;
import org.hl7.fhir.common.hapi.validation.support.SnapshotGeneratingValidationSupport;
import org.hl7.fhir.common.hapi.validation.support.UnknownCodeSystemWarningValidationSupport;
import org.hl7.fhir.common.hapi.validation.support.ValidationSupportChain;
import org.hl7.fhir.common.hapi.validation.validator.FhirInstanceValidator;
import org.hl7.fhir.instance.model.api.IBaseResource;
import org.hl7.fhir.r4.model.CodeSystem;
import org.hl7.fhir.r4.model.CodeSystem.CodeSystemContentMode;
import org.hl7.fhir.r4.model.Enumerations.PublicationStatus;
import org.hl7.fhir.r4.model.StructureDefinition;
import org.hl7.fhir.r4.model.ValueSet;
import org.hl7.fhir.utilities.npm.NpmPackage;

/**
 * Loads a FHIR package as others do, and answers in lines of JSON: what the loader read; HL7's own snapshot of each
 * differential; and HL7's verdict on each case that comes as a line {"name", "profile", "resource"} on stdin.
 * The package's folder has to be on the class path. Nothing is fetched.
 */
public final class PackageCheck {
  private static final Gson GSON = new Gson();

  public static void main(String[] arguments) throws Exception {
    Path file = Path.of(arguments[0]);
    // Libraries print what they like; only we write answers.
    PrintStream out = System.out;
    System.setOut(System.err);
    NpmPackage loaded;
    try (var stream = Files.newInputStream(file)) {
      loaded = NpmPackage.fromPackage(stream);
    }
    say(out, Map.of("kind", "package", "name", loaded.name(), "version", loaded.version(),
        "canonical", loaded.canonical(), "fhirVersion", loaded.fhirVersion(), "dependencies", loaded.dependencies(),
        "examples", loaded.list("example"),
        "listed", loaded.listResources("StructureDefinition", "ValueSet", "CodeSystem", "ConceptMap",
            "OperationDefinition", "CapabilityStatement", "SearchParameter")));

    List<JsonObject> cases = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8)).lines()
        .map(line -> JsonParser.parseString(line).getAsJsonObject()).toList();

    FhirContext context = FhirContext.forR4();
    NpmPackageValidationSupport packages = new NpmPackageValidationSupport(context);
    packages.loadPackageFromClasspath("classpath:" + file.getFileName());
    IValidationSupport base = new DefaultProfileValidationSupport(context);
    // LOINC and SNOMED CT are not there, but for the codes that are used here. What can't be looked up is a warning.
    UnknownCodeSystemWarningValidationSupport unknown = new UnknownCodeSystemWarningValidationSupport(context);
    unknown.setNonExistentCodeSystemSeverity(IValidationSupport.IssueSeverity.WARNING);
    ValidationSupportChain chain = new ValidationSupportChain(
        packages, base, fragments(context, packages, cases), new CommonCodeSystemsTerminologyService(context),
        new InMemoryTerminologyServerValidationSupport(context), unknown,
        new SnapshotGeneratingValidationSupport(context));

    // As FHIR and HL7's own program have it: one coding of the value set is enough (HAPI's issue 8345).
    chain.setCodeableConceptValidationSuccessfulIfNotAllCodingsAreValid(true);

    snapshots(out, context, packages, chain);

    FhirInstanceValidator instances = new FhirInstanceValidator(chain);
    instances.setAnyExtensionsAllowed(true);
    instances.setErrorForUnknownProfiles(true);
    FhirValidator validator = context.newValidator().registerValidatorModule(instances);
    for (JsonObject each : cases) {
      ValidationOptions options = new ValidationOptions();
      if (each.has("profile")) {
        options.addProfile(each.get("profile").getAsString());
      }
      var result = validator.validateWithResult(each.get("resource").toString(), options);
      say(out, Map.of("kind", "verdict", "name", each.get("name").getAsString(),
          "issues", result.getMessages().stream().map(PackageCheck::issue).toList()));
    }
  }

  /** Of the code systems that nobody here has: the codes that our value sets name, and those of the cases. */
  private static PrePopulatedValidationSupport fragments(
      FhirContext context, NpmPackageValidationSupport packages, List<JsonObject> cases) {
    PrePopulatedValidationSupport fragments = new PrePopulatedValidationSupport(context);
    for (String url : List.of("http://loinc.org", "http://snomed.info/sct")) {
      Set<String> codes = new TreeSet<>();
      cases.forEach(each -> collect(each, url, codes));
      for (IBaseResource resource : packages.fetchAllConformanceResources()) {
        if (resource instanceof ValueSet valueSet) {
          valueSet.getCompose().getInclude().stream().filter(include -> url.equals(include.getSystem()))
              .forEach(include -> include.getConcept().forEach(concept -> codes.add(concept.getCode())));
        }
      }
      CodeSystem system = new CodeSystem();
      system.setUrl(url).setStatus(PublicationStatus.ACTIVE).setContent(CodeSystemContentMode.FRAGMENT);
      codes.forEach(code -> system.addConcept().setCode(code));
      fragments.addCodeSystem(system);
    }
    return fragments;
  }

  private static void collect(JsonElement value, String system, Set<String> codes) {
    if (value.isJsonArray()) {
      value.getAsJsonArray().forEach(part -> collect(part, system, codes));
    } else if (value.isJsonObject()) {
      JsonObject object = value.getAsJsonObject();
      if (object.has("system") && object.has("code") && object.get("system").getAsString().equals(system)) {
        codes.add(object.get("code").getAsString());
      }
      object.entrySet().forEach(member -> collect(member.getValue(), system, codes));
    }
  }

  /** HL7's snapshot of each differential, beside the one in the package. */
  private static void snapshots(
      PrintStream out, FhirContext context, NpmPackageValidationSupport packages, ValidationSupportChain chain) {
    SnapshotGeneratingValidationSupport generator = new SnapshotGeneratingValidationSupport(context);
    for (IBaseResource resource : packages.fetchAllStructureDefinitions()) {
      StructureDefinition shipped = (StructureDefinition) resource;
      StructureDefinition bare = shipped.copy();
      bare.setSnapshot(null);
      IBaseResource whole = generator.generateSnapshot(
          new ValidationSupportContext(chain), bare, bare.getUrl(), null, bare.getName());
      JsonObject made = JsonParser.parseString(context.newJsonParser().encodeResourceToString(whole)).getAsJsonObject();
      say(out, Map.of("kind", "snapshot", "url", shipped.getUrl(), "made", made.get("snapshot")));
    }
  }

  private static Map<String, Object> issue(SingleValidationMessage message) {
    Map<String, Object> said = new LinkedHashMap<>();
    said.put("severity", message.getSeverity().getCode());
    said.put("place", message.getLocationString());
    said.put("id", message.getMessageId());
    said.put("text", message.getMessage());
    return said;
  }

  private static void say(PrintStream out, Map<String, ?> answer) {
    out.println(GSON.toJson(answer));
    out.flush();
  }
}
