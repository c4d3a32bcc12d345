"""What a server declares at /metadata. Declared is not entitled: a refusal later is still possible.

Source: https://hl7.org/fhir/R4/capabilitystatement.html
"""

from __future__ import annotations

from fhir_secondop.model import Resource


class Capability:
    """A CapabilityStatement, asked for what a plan needs to know."""

    def __init__(self, statement: Resource) -> None:
        self.statement = statement
        self._rest: Resource = next((r for r in statement.get("rest", []) if r.get("mode") == "server"), {})
        self._resources = {r["type"]: r for r in self._rest.get("resource", []) if "type" in r}
        self._system = {i.get("code") for i in self._rest.get("interaction", [])}

    @property
    def fhir_version(self) -> str:
        """ "4.0.1" of an R4 server; "" where it does not say."""
        return str(self.statement.get("fhirVersion", ""))

    @property
    def software(self) -> str:
        """Name and version of the software, as far as it says."""
        software = self.statement.get("software", {})
        return f"{software.get('name', '')} {software.get('version', '')}".strip()

    @property
    def types(self) -> list[str]:
        """The resource types that it declares anything of."""
        return sorted(self._resources)

    def offers(self, resource_type: str, interaction: str) -> bool:
        """Whether it declares this interaction on the type ("search-type", "create" …)."""
        return interaction in self.interactions(resource_type)

    def interactions(self, resource_type: str) -> list[str]:
        """The interactions that it declares on the type."""
        return [i.get("code", "") for i in self._resources.get(resource_type, {}).get("interaction", [])]

    def system(self, interaction: str) -> bool:
        """Whether it declares "transaction" or "batch"."""
        return interaction in self._system

    def conditional_create(self, resource_type: str) -> bool:
        """Whether it declares If-None-Exist on the type."""
        return self._resources.get(resource_type, {}).get("conditionalCreate") is True

    def parameters(self, resource_type: str) -> set[str]:
        """The search parameters that it declares on the type, and on every type."""
        every = self._rest.get("searchParam", [])
        return {str(p.get("name")) for p in [*self._resources.get(resource_type, {}).get("searchParam", []), *every]}

    def parameter(self, resource_type: str, *names: str) -> str:
        """The first of these search parameters that it declares on the type, or ""."""
        declared = self.parameters(resource_type)
        return next((name for name in names if name in declared), "")

    def operation(self, resource_type: str, name: str) -> bool:
        """Whether it declares the operation ("everything", with or without $) on the type or on the system."""
        listed = [*self._resources.get(resource_type, {}).get("operation", []), *self._rest.get("operation", [])]
        return any(
            # Some name their operations otherwise; the definition's URL tells.
            str(o.get("name", "")).lstrip("$") == name
            or str(o.get("definition", "")).partition("|")[0].endswith((f"-{name}", f"/{name}"))
            for o in listed
        )
