// What every script here needs: where the service is, what is sent to it, and what a client shows of an answer.
export const [base, token] = process.argv.slice(2);

export const patient = (number, family) => ({
  resourceType: "Patient",
  identifier: [{ system: "urn:example:mrn", value: `${family}-${number}` }],
  name: [{ family, given: [`N${number}`] }],
  gender: number % 2 ? "female" : "male",
});

export const observation = (one, value) => ({
  resourceType: "Observation",
  status: "final",
  code: { coding: [{ system: "http://loinc.org", code: "29463-7" }] },
  subject: { reference: `Patient/${one.id}` },
  valueQuantity: { value, unit: "kg", system: "http://unitsofmeasure.org", code: "kg" },
});

// Two entries that may stand; the third reads what is not there: a batch answers each, a transaction none.
export const bundle = (type, family, absent) => ({
  resourceType: "Bundle",
  type,
  entry: [
    { request: { method: "POST", url: "Patient" }, resource: patient(1, family) },
    { request: { method: "POST", url: "Patient" }, resource: patient(2, family) },
    ...(absent ? [{ request: { method: "GET", url: `Patient/${absent}` } }] : []),
  ],
});

export const statuses = (answer) => answer.entry.map((entry) => entry.response.status.slice(0, 3));
export const matched = (answer) => answer.entry.filter((entry) => entry.search.mode === "match").length;
export const types = (answer) => answer.entry.map((entry) => entry.resource.resourceType).sort();

// What a client throws where the service refuses: `show` says how this client shows it.
export async function refused(ask, show) {
  let answer;
  try {
    answer = await ask();
  } catch (error) {
    return show(error);
  }
  return { notRefused: answer };
}

export const told = (outcome) => ({ code: outcome.issue[0].code, says: outcome.issue[0].diagnostics ?? outcome.issue[0].details?.text });
export const print = (seen) => console.log(JSON.stringify(seen));
