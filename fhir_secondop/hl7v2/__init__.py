"""HL7 v2 as a format, pure: text of fields, messages read and written, blocks on a wire."""
