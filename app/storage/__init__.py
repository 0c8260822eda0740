"""SQLAlchemy adapters of the authority's ports: SQLite and PostgreSQL."""
