// Reads each *.json and *.xml of a folder with FHIR.js, and writes it in the other form: name.json.xml, name.xml.json;
// and what its validator says of each *.json as name.json.said.
const fs = require("fs");
const path = require("path");
const { Fhir } = require(process.argv[4]);

const [from, to] = process.argv.slice(2);
const fhir = new Fhir();
for (const name of fs.readdirSync(from)) {
  const text = fs.readFileSync(path.join(from, name), "utf8");
  const write = (end, make) => {
    try {
      fs.writeFileSync(path.join(to, name + end), make());
    } catch (error) {
      fs.writeFileSync(path.join(to, name + ".error"), String(error));
    }
  };
  if (name.endsWith(".json")) {
    write(".xml", () => fhir.jsonToXml(text));
    write(".said", () => JSON.stringify(fhir.validate(JSON.parse(text), {})));
  } else {
    write(".json", () => fhir.xmlToJson(text));
  }
}
