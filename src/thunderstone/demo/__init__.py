"""`thunderstone demo`: one small network, trained plain and with methods attached, compared and drawn."""
