-- What of a resource's address is secret, a database's password: sealed by the tenant's data key for that resource at that address.
ALTER TABLE resources ADD COLUMN sealed BYTEA;
