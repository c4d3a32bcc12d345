package secondop.interop;

import ca.uhn.fhir.context.FhirContext;
import ca.uhn.fhir.parser.IParser;
import ca.uhn.fhir.parser.StrictErrorHandler;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.Path;
import org.hl7.fhir.instance.model.api.IBaseResource;

/** Reads each *.json and *.xml of a folder with HAPI's parsers, and writes what it read as name.json and name.xml. */
public class HapiFormat {
  public static void main(String[] args) throws Exception {
    FhirContext context = FhirContext.forR4();
    context.setParserErrorHandler(new StrictErrorHandler());
    Path out = Path.of(args[1]);
    try (DirectoryStream<Path> files = Files.newDirectoryStream(Path.of(args[0]), "*.{json,xml}")) {
      for (Path file : files) {
        String name = file.getFileName().toString();
        IParser parser = name.endsWith(".json") ? context.newJsonParser() : context.newXmlParser();
        try {
          IBaseResource read = parser.parseResource(Files.readString(file));
          Files.writeString(out.resolve(name + ".json"), context.newJsonParser().encodeResourceToString(read));
          Files.writeString(out.resolve(name + ".xml"), context.newXmlParser().encodeResourceToString(read));
        } catch (Exception error) {
          Files.writeString(out.resolve(name + ".error"), String.valueOf(error.getMessage()));
        }
      }
    }
  }
}
