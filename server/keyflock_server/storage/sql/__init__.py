"""The store in SQL: one file a group of tables, portable between back ends."""
