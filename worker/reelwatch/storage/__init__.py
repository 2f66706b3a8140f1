"""The database: engine, migrations, tables, statements, and what is written of a decision."""
