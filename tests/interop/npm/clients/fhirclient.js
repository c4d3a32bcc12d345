// fhirclient (SMART Health IT's, Apache-2.0), as an app has it after its launch: with a token and a patient.
import smart from "fhirclient";
import { base, bundle, matched, observation, patient, print, refused, statuses, told, token, types } from "./seen.js";

const kept = new Map();
const storage = { get: async (key) => kept.get(key), set: async (key, value) => kept.set(key, value), unset: async (key) => kept.delete(key) };
const open = (access_token, id) => smart({}, {}, storage).client({ serverUrl: base, tokenResponse: { access_token, patient: id } });
const json = { "content-type": "application/fhir+json" };
const outcome = (message) => JSON.parse(message.slice(message.indexOf("{"), message.lastIndexOf("}") + 1));
const shown = ({ status, message }) => ({ status, ...told(outcome(message)) });
const seen = {};

const first = open(token);
seen.version = [await first.getFhirVersion(), await first.getFhirRelease()];
const made = await first.create(patient(0, "Smart"));
const client = open(token, made.id);
seen.created = made.meta.versionId;
const { body: read, response } = await client.request({ url: `Patient/${made.id}`, includeResponse: true });
seen.read = [read.name[0].family, response.headers.get("etag")];
seen.patient = (await client.patient.read()).id === made.id;
const ifMatch = { headers: { "If-Match": response.headers.get("etag"), ...json } };
const updated = await client.update({ ...read, birthDate: "1970-01-02" }, ifMatch);
seen.updated = [updated.meta.versionId, updated.birthDate];
const patched = await client.patch(`Patient/${made.id}`, [{ op: "replace", path: "/gender", value: "other" }]);
seen.patched = [patched.meta.versionId, patched.gender];
seen.vread = (await client.request(`Patient/${made.id}/_history/1`)).gender;
seen.history = (await client.request(`Patient/${made.id}/_history`)).entry.map((entry) => entry.request.method);

const ifNoneExist = { headers: { "If-None-Exist": "identifier=urn:example:mrn|Smart-0", ...json }, includeResponse: true };
const twin = await client.create(patient(0, "Smart"), ifNoneExist);
seen.conditionalCreate = [twin.response.status, twin.body.id === made.id];

const send = (body) => client.request({ url: base, method: "POST", body: JSON.stringify(body), headers: json });
seen.batch = statuses(await send(bundle("batch", "Batch", "absent")));
seen.transaction = statuses(await send(bundle("transaction", "Transaction")));
seen.undone = await refused(() => send(bundle("transaction", "Undone", "absent")), shown);
seen.nothingStays = await client.request("Patient?family=Undone", { flat: true });

for (let number = 1; number < 7; number++) await client.create(patient(number, "Smart"));
const search = "Patient?family=Smart&_count=3&_sort=given";
const given = (one) => one.name[0].given[0];
seen.pages = await client.request(search, { pageLimit: 0 }).then((pages) => pages.map((page) => page.entry.map((e) => given(e.resource))));
seen.flat = (await client.request(search, { pageLimit: 0, flat: true })).map(given);
seen.iterated = [];
for await (const one of client.resources(search)) seen.iterated.push(given(one));
seen.several = matched(await client.request("Patient?family=Smart&gender=female&given:exact=N1"));

const weight = await client.create(observation(made, 72.5));
const mine = await client.patient.request("Observation", { resolveReferences: ["subject"] });
seen.mine = mine.entry.map((entry) => [entry.resource.valueQuantity.value, entry.resource.subject.name[0].family]);
seen.kg = client.units.kg(client.byCode([weight], "code")["29463-7"][0].valueQuantity);
seen.include = types(await client.request(`Observation?_id=${weight.id}&_include=Observation:subject`));
seen.everything = types(await client.request(`Patient/${made.id}/$everything`));
const said = await client.request({
  url: "Patient/$validate", method: "POST", body: JSON.stringify({ ...patient(9, "Smart"), gender: "x" }), headers: json,
});
seen.validate = [said.issue[0].severity, said.issue[0].expression];

const spare = await client.create(patient(1, "Spare"));
seen.deleted = (await client.delete(`Patient/${spare.id}`, { includeResponse: true })).response.status;
seen.refused = {
  absent: await refused(() => client.request("Patient/absent"), shown),
  gone: await refused(() => client.request(`Patient/${spare.id}`), shown),
  stale: await refused(() => client.update(read, ifMatch), shown),
  invalid: await refused(() => client.create({ resourceType: "Patient", gender: "x" }), shown),
  unknown: await refused(() => client.request("Patient?shoe=42"), shown),
  nobody: await refused(() => open("of-nobody").request("Patient/absent"), shown),
};
print(seen);
