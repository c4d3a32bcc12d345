"""Who did and who saw what: rows in hash chains, written with what they record, or within 50 ms of a read."""
