// @medplum/core (Apache-2.0), a client made for Medplum's own server, against the service. Nothing is cached: each answer
// is the service's.
import { MedplumClient } from "@medplum/core";
import { base, bundle, observation, patient, print, refused, statuses, told, token, types } from "./seen.js";

const root = base.replace(/fhir$/, "");
const options = { baseUrl: root, fhirUrlPath: "fhir", cacheTime: 0, resourceCacheSize: 0 };
const client = new MedplumClient({ ...options, accessToken: token });
const shown = (error) => told(error.outcome);
const seen = {};

const declared = await client.get(client.fhirUrl("metadata"));
seen.capability = [declared.resourceType, declared.fhirVersion];
const made = await client.createResource(patient(0, "Plum"));
seen.created = made.meta.versionId;
const read = await client.readResource("Patient", made.id);
seen.read = read.name[0].family;
const ifMatch = { headers: { "If-Match": 'W/"1"' } };
const updated = await client.updateResource({ ...read, birthDate: "1970-01-02" }, ifMatch);
seen.updated = [updated.meta.versionId, updated.birthDate];
const patched = await client.patchResource("Patient", made.id, [{ op: "replace", path: "/gender", value: "other" }]);
seen.patched = [patched.meta.versionId, patched.gender];
seen.vread = (await client.readVersion("Patient", made.id, "1")).gender;
seen.history = (await client.readHistory("Patient", made.id)).entry.map((entry) => entry.resource.meta.versionId);

const twin = await client.createResourceIfNoneExist(patient(0, "Plum"), "identifier=urn:example:mrn|Plum-0");
seen.createdIfNoneExist = twin.id === made.id;
const another = await client.createResourceIfNoneExist(patient(1, "Plum"), "identifier=urn:example:mrn|Plum-1");
seen.createdAsNoneExists = another.id !== made.id;
const upserted = await client.upsertResource(patient(0, "Plum"), "identifier=urn:example:mrn|Plum-0");
seen.upserted = [upserted.id === made.id, upserted.meta.versionId];
const inserted = await client.upsertResource(patient(2, "Plum"), { identifier: "urn:example:mrn|Plum-2" });
seen.inserted = inserted.meta.versionId;

seen.batch = statuses(await client.executeBatch(bundle("batch", "Batch", "absent")));
seen.transaction = statuses(await client.executeBatch(bundle("transaction", "Transaction")));
seen.undone = await refused(() => client.executeBatch(bundle("transaction", "Undone", "absent")), shown);
seen.nothingStays = await client.searchResources("Patient", { family: "Undone" });

for (let number = 3; number < 7; number++) await client.createResource(patient(number, "Plum"));
seen.pages = [];
for await (const page of client.searchResourcePages("Patient", { family: "Plum", _count: "3", _sort: "given" })) {
  seen.pages.push(page.map((one) => one.name[0].given[0]));
}
const women = await client.searchResources("Patient", { family: "Plum", gender: "female" });
seen.several = women.length;

const weight = await client.createResource(observation(made, 72.5));
seen.include = types(await client.search("Observation", { _id: weight.id, _include: "Observation:subject" }));
seen.reference = (await client.readReference(weight.subject)).id === made.id;
seen.everything = types(await client.readPatientEverything(made.id));
const said = await client.validateResource({ ...patient(9, "Plum"), gender: "x" });
seen.validate = [said.issue[0].severity, said.issue[0].expression];

const spare = await client.createResource(patient(1, "Spare"));
await client.deleteResource("Patient", spare.id);
seen.refused = {
  absent: await refused(() => client.readResource("Patient", "absent"), shown),
  gone: await refused(() => client.readResource("Patient", spare.id), shown),
  stale: await refused(() => client.updateResource(read, ifMatch), shown),
  invalid: await refused(() => client.createResource({ resourceType: "Patient", gender: "x" }), shown),
  unknown: await refused(() => client.search("Patient", { shoe: "42" }), shown),
};
const nobody = new MedplumClient({ ...options, accessToken: "of-nobody" });
seen.refused.nobody = await refused(() => nobody.readResource("Patient", made.id), shown);
print(seen);
