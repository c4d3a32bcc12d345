package secondop.interop;

import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import org.hl7.fhir.utilities.TimeTracker;
import org.hl7.fhir.validation.FhirValidatorHttpService;
import org.hl7.fhir.validation.ValidationEngine;
import org.hl7.fhir.validation.service.ValidationService;
import org.hl7.fhir.validation.service.model.InstanceValidatorParameters;
import org.hl7.fhir.validation.service.model.ValidationEngineParameters;

/**
 * HL7's validator in its own HTTP mode, made of the parts, and by the steps, of its program: what
 * `java -jar validator_cli.jar server PORT -version 4.0.1 -tx n/a -ig FOLDER` starts, which is published elsewhere.
 * The arguments are the port, and folders or packages of guides. Other packages are read from ~/.fhir/packages.
 */
public final class ValidatorServer {

    private ValidatorServer() {}

    public static void main(String[] args) {
        try {
            List<String> guides = Arrays.asList(args).subList(1, args.length);
            ValidationEngineParameters settings = new ValidationEngineParameters()
                    .setSv("4.0.1").setTxServer(null).setLocale(Locale.ENGLISH).setIgs(guides);
            ValidationEngine engine = new ValidationService().initializeValidator(
                    settings, new InstanceValidatorParameters(), "hl7.fhir.r4.core#4.0.1", new TimeTracker(), List.of());
            new FhirValidatorHttpService(engine, Integer.parseInt(args[0])).startServer();
            System.out.println("ready");
        } catch (Exception failure) {
            failure.printStackTrace();
            System.exit(1); // its own threads would keep the process alive
        }
    }
}
