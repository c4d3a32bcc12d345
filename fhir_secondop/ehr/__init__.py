"""Other people's servers: signing in, reading a patient's record, delivering a document. Knows no cases."""
