// fhir-kit-client (Vermonster, MIT) against the service: one answer of each of its methods.
import { Client } from "fhir-kit-client";
import { base, bundle, matched, observation, patient, print, refused, statuses, token, told, types } from "./seen.js";

const client = new Client({ baseUrl: base, bearerToken: token });
const http = (answer) => Client.httpFor(answer).response;
const resourceType = "Patient";
const shown = (error) => ({ status: error.response.status, ...told(error.response.data) });
const seen = {};

const declared = await client.capabilityStatement();
seen.capability = [declared.resourceType, declared.fhirVersion];

const made = await client.create({ resourceType, body: patient(0, "Kit") });
const { id } = made;
seen.created = [http(made).status, made.meta.versionId];
seen.location = http(made).headers.get("location") === `${base}/Patient/${id}/_history/1`;
const read = await client.read({ resourceType, id });
seen.read = [read.name[0].family, http(read).headers.get("etag")];

const ifMatch = { headers: { "If-Match": http(read).headers.get("etag") } };
const updated = await client.update({ resourceType, id, body: { ...read, birthDate: "1970-01-02" }, options: ifMatch });
seen.updated = [updated.meta.versionId, updated.birthDate];
const jsonPatch = [{ op: "replace", path: "/gender", value: "other" }];
const patched = await client.patch({ resourceType, id, jsonPatch });
seen.patched = [patched.meta.versionId, patched.gender];
seen.vread = (await client.vread({ resourceType, id, version: "1" })).gender;
seen.history = (await client.resourceHistory({ resourceType, id })).entry.map((entry) => entry.request.method);
const ofPatients = (await client.typeHistory({ resourceType })).entry.map((entry) => entry.resource);
seen.typeHistory = ofPatients.filter((one) => one.id === id).map((one) => one.meta.versionId);
seen.systemHistory = (await client.systemHistory()).type;

const ifNoneExist = { headers: { "If-None-Exist": "identifier=urn:example:mrn|Kit-0" } };
const twin = await client.create({ resourceType, body: patient(0, "Kit"), options: ifNoneExist });
seen.conditionalCreate = [http(twin).status, twin.id === id];
const searchParams = { identifier: "urn:example:mrn|Kit-0" };
const again = await client.update({ resourceType, searchParams, body: patient(0, "Kit") });
seen.conditionalUpdate = [http(again).status, again.id === id, again.meta.versionId];

seen.batch = statuses(await client.batch({ body: bundle("batch", "Batch", "absent") }));
seen.transaction = statuses(await client.transaction({ body: bundle("transaction", "Transaction") }));
seen.undone = await refused(() => client.transaction({ body: bundle("transaction", "Undone", "absent") }), shown);
seen.nothingStays = (await client.search({ resourceType, searchParams: { family: "Undone" } })).entry ?? [];

for (let number = 1; number < 7; number++) await client.create({ resourceType, body: patient(number, "Kit") });
const found = [];
let page = await client.search({ resourceType, searchParams: { family: "Kit", _count: 3, _sort: "given" } });
for (; page; page = await client.nextPage({ bundle: page })) found.push(page.entry.map((entry) => entry.resource.name[0].given[0]));
seen.pages = found;
const women = { family: "Kit", gender: "female", "given:exact": ["N1"] };
seen.several = matched(await client.search({ resourceType, searchParams: women }));
seen.posted = matched(await client.search({ resourceType, searchParams: women, options: { postSearch: true } }));

const weight = await client.create({ resourceType: "Observation", body: observation(made, 72.5) });
const including = { _id: weight.id, _include: "Observation:subject" };
seen.include = types(await client.search({ resourceType: "Observation", searchParams: including }));
const compartment = { resourceType, id };
seen.compartment = types(await client.compartmentSearch({ resourceType: "Observation", compartment }));
seen.resolved = (await client.resolve({ reference: weight.subject.reference })).id === id;
seen.everything = types(await client.operation({ name: "everything", resourceType, id, method: "GET" }));
const parameters = { resourceType: "Parameters", parameter: [{ name: "resource", resource: { ...patient(9, "Kit"), gender: "x" } }] };
const said = await client.operation({ name: "validate", resourceType, input: parameters });
seen.validate = [said.issue[0].severity, said.issue[0].expression];

const spare = await client.create({ resourceType, body: patient(1, "Spare") });
const gone = { resourceType, id: spare.id };
seen.deleted = http(await client.delete(gone)).status;
seen.refused = {
  absent: await refused(() => client.read({ resourceType, id: "absent" }), shown),
  gone: await refused(() => client.read(gone), shown),
  stale: await refused(() => client.update({ resourceType, id, body: read, options: ifMatch }), shown),
  invalid: await refused(() => client.create({ resourceType, body: { resourceType, gender: "x" } }), shown),
  unknown: await refused(() => client.search({ resourceType, searchParams: { shoe: "42" } }), shown),
};
client.bearerToken = "of-nobody";
seen.refused.nobody = await refused(() => client.read({ resourceType, id }), shown);
print(seen);
