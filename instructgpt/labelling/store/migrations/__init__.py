"""Changes of the tables, in order; `database.open_store` applies what is missing."""
