package secondop.interop;

import ca.uhn.fhir.context.FhirContext;
import ca.uhn.fhir.context.support.DefaultProfileValidationSupport;
import ca.uhn.fhir.context.support.IValidationSupport;
import ca.uhn.fhir.context.support.ValidationSupportContext;
import ca.uhn.fhir.validation.FhirValidator;
import ca.uhn.fhir.validation.SingleValidationMessage;
import ca.uhn.fhir.validation.ValidationOptions;
import com.google.gson.Gson;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import org.hl7.fhir.common.hapi.validation.support.CommonCodeSystemsTerminologyService;
import org.hl7.fhir.common.hapi.validation.support.InMemoryTerminologyServerValidationSupport;
import org.hl7.fhir.common.hapi.validation.support.NpmPackageValidationSupport;
import org.hl7.fhir.common.hapi.validation.support.SnapshotGeneratingValidationSupport;
import org.hl7.fhir.common.hapi.validation.support.UnknownCodeSystemWarningValidationSupport;
import org.hl7.fhir.common.hapi.validation.support.ValidationSupportChain;
import org.hl7.fhir.common.hapi.validation.validator.FhirInstanceValidator;
import org.hl7.fhir.instance.model.api.IBaseResource;
import org.hl7.fhir.r4.model.StructureDefinition;
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

    FhirContext context = FhirContext.forR4();
    NpmPackageValidationSupport packages = new NpmPackageValidationSupport(context);
    packages.loadPackageFromClasspath("classpath:" + file.getFileName());
    IValidationSupport base = new DefaultProfileValidationSupport(context);
    // LOINC and SNOMED CT are not there: what can't be looked up is a warning, and a value set's own list still counts.
    UnknownCodeSystemWarningValidationSupport unknown = new UnknownCodeSystemWarningValidationSupport(context);
    unknown.setNonExistentCodeSystemSeverity(IValidationSupport.IssueSeverity.WARNING);
    ValidationSupportChain chain = new ValidationSupportChain(
        packages, base, new CommonCodeSystemsTerminologyService(context),
        new InMemoryTerminologyServerValidationSupport(context), unknown,
        new SnapshotGeneratingValidationSupport(context));

    snapshots(out, context, packages, chain);

    FhirInstanceValidator instances = new FhirInstanceValidator(chain);
    instances.setAnyExtensionsAllowed(true);
    instances.setErrorForUnknownProfiles(true);
    FhirValidator validator = context.newValidator().registerValidatorModule(instances);
    BufferedReader cases = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = cases.readLine(); line != null; line = cases.readLine()) {
      JsonObject each = JsonParser.parseString(line).getAsJsonObject();
      ValidationOptions options = new ValidationOptions();
      if (each.has("profile")) {
        options.addProfile(each.get("profile").getAsString());
      }
      var result = validator.validateWithResult(each.get("resource").toString(), options);
      say(out, Map.of("kind", "verdict", "name", each.get("name").getAsString(),
          "issues", result.getMessages().stream().map(PackageCheck::issue).toList()));
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
