"""The parts of a delivery; `service.delivery` puts them together."""
