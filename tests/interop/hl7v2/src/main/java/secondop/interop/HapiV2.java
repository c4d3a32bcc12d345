package secondop.interop;

import ca.uhn.hl7v2.DefaultHapiContext;
import ca.uhn.hl7v2.HapiContext;
import ca.uhn.hl7v2.app.Connection;
import ca.uhn.hl7v2.model.Message;
import ca.uhn.hl7v2.parser.CanonicalModelClassFactory;
import ca.uhn.hl7v2.parser.PipeParser;
import ca.uhn.hl7v2.validation.impl.ValidationContextFactory;
import java.nio.charset.StandardCharsets;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.TimeUnit;

/**
 * "read IN OUT": reads each *.hl7 of a folder with HAPI's rules, and writes its class and what it read as name.out, or
 * why it could not as name.error. "send PORT FILE": sends it by HAPI's client, and prints what was answered.
 */
public class HapiV2 {
  public static void main(String[] args) throws Exception {
    try (HapiContext context = new DefaultHapiContext()) {
      context.setValidationContext(ValidationContextFactory.defaultValidation());
      context.setModelClassFactory(new CanonicalModelClassFactory("2.5.1"));
      PipeParser parser = context.getPipeParser();
      if (args[0].equals("read")) {
        read(parser, Path.of(args[1]), Path.of(args[2]));
      } else {
        send(context, parser, Integer.parseInt(args[1]), Path.of(args[2]));
      }
    }
  }

  private static void read(PipeParser parser, Path in, Path out) throws Exception {
    try (DirectoryStream<Path> files = Files.newDirectoryStream(in, "*.hl7")) {
      for (Path file : files) {
        String name = file.getFileName().toString();
        try {
          Message message = parser.parse(Files.readString(file, StandardCharsets.UTF_8));
          String said = message.getClass().getSimpleName() + "\r" + parser.encode(message);
          Files.writeString(out.resolve(name + ".out"), said, StandardCharsets.UTF_8);
        } catch (Exception error) {
          Files.writeString(out.resolve(name + ".error"), String.valueOf(error.getMessage()));
        }
      }
    }
  }

  private static void send(HapiContext context, PipeParser parser, int port, Path file) throws Exception {
    Message message = parser.parse(Files.readString(file, StandardCharsets.UTF_8).replace('\n', '\r'));
    Connection connection = context.newClient("127.0.0.1", port, false);
    connection.getInitiator().setTimeout(20, TimeUnit.SECONDS);
    Message answer = connection.getInitiator().sendAndReceive(message);
    System.out.print(answer.getClass().getSimpleName() + "\r" + parser.encode(answer));
    connection.close();
  }
}
