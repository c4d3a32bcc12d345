package secondop.interop;

import ca.uhn.fhir.context.FhirContext;
import ca.uhn.fhir.context.support.DefaultProfileValidationSupport;
import ca.uhn.fhir.context.support.IValidationSupport;
import ca.uhn.fhir.validation.FhirValidator;
import ca.uhn.fhir.validation.SingleValidationMessage;
import ca.uhn.fhir.validation.ValidationOptions;
import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.stream.Stream;
import org.hl7.fhir.common.hapi.validation.support.CommonCodeSystemsTerminologyService;
import org.hl7.fhir.common.hapi.validation.support.InMemoryTerminologyServerValidationSupport;
import org.hl7.fhir.common.hapi.validation.support.PrePopulatedValidationSupport;
import org.hl7.fhir.common.hapi.validation.support.SnapshotGeneratingValidationSupport;
import org.hl7.fhir.common.hapi.validation.support.UnknownCodeSystemWarningValidationSupport;
import org.hl7.fhir.common.hapi.validation.support.ValidationSupportChain;
import org.hl7.fhir.common.hapi.validation.validator.FhirInstanceValidator;
import org.hl7.fhir.r5.utils.validation.constants.BestPracticeWarningLevel;

/**
 * HL7's validator for R4, asked by lines: each line in is a case {"id", "resource" (text), "profiles" (URLs)}, each line
 * out its issues {"id", "issues": [{"severity", "id", "at", "text"}]}. The arguments are folders of definitions to
 * load beside R4's own. The first line out is {"ready": version}.
 */
public final class Oracle {

    private static final Gson GSON = new GsonBuilder().disableHtmlEscaping().create();

    private final FhirValidator validator;

    private Oracle(FhirValidator validator) {
        this.validator = validator;
    }

    public static void main(String[] folders) throws IOException {
        PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
        System.setOut(System.err); // what the validator itself prints must not come between the answers
        Oracle oracle = new Oracle(validator(folders));
        oracle.issues("{\"resourceType\":\"Patient\"}", new JsonArray()); // reads the definitions
        JsonObject ready = new JsonObject();
        ready.addProperty("ready", version());
        say(out, ready);
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            say(out, oracle.answer(GSON.fromJson(line, JsonObject.class)));
        }
    }

    private static void say(PrintStream out, JsonObject line) {
        out.println(GSON.toJson(line));
        out.flush();
    }

    private static String version() {
        return "HAPI " + version(FhirInstanceValidator.class) + ", org.hl7.fhir.core "
                + version(org.hl7.fhir.validation.instance.InstanceValidator.class);
    }

    private static String version(Class<?> type) {
        String jar = type.getProtectionDomain().getCodeSource().getLocation().getPath();
        return Path.of(jar).getParent().getFileName().toString();
    }

    private JsonObject answer(JsonObject asked) {
        JsonObject answer = new JsonObject();
        answer.add("id", asked.get("id"));
        JsonArray profiles = asked.has("profiles") ? asked.getAsJsonArray("profiles") : new JsonArray();
        try {
            answer.add("issues", issues(asked.get("resource").getAsString(), profiles));
        } catch (RuntimeException | Error failure) { // it throws Error for some faults, and has to go on after them
            JsonArray only = new JsonArray();
            String name = failure.getClass().getSimpleName();
            only.add(issue("fatal", "THROWN_" + name, "", String.valueOf(failure.getMessage())));
            answer.add("issues", only);
        }
        return answer;
    }

    private JsonArray issues(String resource, JsonArray profiles) {
        ValidationOptions options = new ValidationOptions();
        for (JsonElement url : profiles) {
            options.addProfile(url.getAsString());
        }
        JsonArray issues = new JsonArray();
        for (SingleValidationMessage message : validator.validateWithResult(resource, options).getMessages()) {
            String severity = message.getSeverity() == null ? "" : message.getSeverity().getCode();
            issues.add(issue(severity, message.getMessageId(), message.getLocationString(), message.getMessage()));
        }
        return issues;
    }

    private static JsonObject issue(String severity, String id, String at, String text) {
        JsonObject issue = new JsonObject();
        issue.addProperty("severity", severity);
        issue.addProperty("id", id == null ? "" : id);
        issue.addProperty("at", at == null ? "" : at);
        issue.addProperty("text", text);
        return issue;
    }

    private static FhirValidator validator(String[] folders) throws IOException {
        FhirContext context = FhirContext.forR4();
        UnknownCodeSystemWarningValidationSupport unknown = new UnknownCodeSystemWarningValidationSupport(context);
        unknown.setNonExistentCodeSystemSeverity(IValidationSupport.IssueSeverity.WARNING);
        ValidationSupportChain chain = new ValidationSupportChain(
                ours(context, folders),
                new DefaultProfileValidationSupport(context),
                new CommonCodeSystemsTerminologyService(context),
                new InMemoryTerminologyServerValidationSupport(context),
                unknown,
                new SnapshotGeneratingValidationSupport(context));
        // R4: one of the codings is from the value set; HAPI asks it of each of them unless told (its issue 8345).
        chain.setCodeableConceptValidationSuccessfulIfNotAllCodingsAreValid(true);
        FhirInstanceValidator module = new FhirInstanceValidator(chain);
        module.setBestPracticeWarningLevel(BestPracticeWarningLevel.Ignore);
        module.setAnyExtensionsAllowed(true);
        module.setErrorForUnknownProfiles(false);
        module.setAllowExamples(true); // the official examples name systems at example.org
        module.setAssumeValidRestReferences(true); // else the type that a reference names is not looked at
        return context.newValidator().registerValidatorModule(module);
    }

    private static IValidationSupport ours(FhirContext context, String[] folders) throws IOException {
        PrePopulatedValidationSupport support = new PrePopulatedValidationSupport(context);
        for (String folder : folders) {
            try (Stream<Path> files = Files.list(Path.of(folder))) {
                for (Path file : files.filter(f -> f.toString().endsWith(".json")).sorted().toList()) {
                    support.addResource(context.newJsonParser().parseResource(Files.readString(file)));
                }
            }
        }
        return support;
    }
}
