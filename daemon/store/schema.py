"""The tables, as numbered migrations. Each runs in one transaction; what was released is never edited again.

Config, annotations and ``expects`` are JSON text; times are milliseconds since the epoch. ``versions`` has
no foreign key to ``functions``: the first version of a function is stored (building) before the function
exists.
"""

from __future__ import annotations

APPLICATION_ID = 0x53544F4B
"""Marks the file as ours (``STOK``), so that another program's database is refused, not migrated."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE apps (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            config TEXT NOT NULL,
            annotations TEXT NOT NULL,
            syslog_url TEXT NOT NULL,
            shape TEXT NOT NULL,
            created_at INTEGER NOT NULL,
            updated_at INTEGER NOT NULL
        ) STRICT
        """,
        """
        CREATE TABLE functions (
            id TEXT PRIMARY KEY,
            app_id TEXT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
            name TEXT NOT NULL,
            live_number INTEGER NOT NULL,
            annotations TEXT NOT NULL,
            pcu_count INTEGER NOT NULL,
            shape TEXT NOT NULL,
            created_at INTEGER NOT NULL,
            updated_at INTEGER NOT NULL,
            UNIQUE (app_id, name)
        ) STRICT
        """,
        """
        CREATE TABLE versions (
            function_id TEXT NOT NULL,
            number INTEGER NOT NULL,
            image TEXT NOT NULL,
            digest TEXT NOT NULL,
            memory_mib INTEGER NOT NULL,
            timeout_s INTEGER NOT NULL,
            idle_timeout_s INTEGER NOT NULL,
            config TEXT NOT NULL,
            start TEXT NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('building', 'ready', 'failed')),
            error TEXT NOT NULL,
            created_at INTEGER NOT NULL,
            PRIMARY KEY (function_id, number)
        ) STRICT, WITHOUT ROWID
        """,
        "CREATE INDEX versions_by_digest ON versions (digest)",
        """
        CREATE TABLE triggers (
            id TEXT PRIMARY KEY,
            app_id TEXT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
            fn_id TEXT NOT NULL REFERENCES functions (id) ON DELETE CASCADE,
            name TEXT NOT NULL,
            type TEXT NOT NULL,
            source TEXT NOT NULL,
            annotations TEXT NOT NULL,
            created_at INTEGER NOT NULL,
            updated_at INTEGER NOT NULL,
            UNIQUE (app_id, type, source),
            UNIQUE (app_id, fn_id, name)
        ) STRICT
        """,
        "CREATE INDEX triggers_by_name ON triggers (app_id, name, id)",
        "CREATE INDEX triggers_by_function ON triggers (fn_id)",
        """
        CREATE TABLE bundles (
            digest TEXT PRIMARY KEY,
            packed_bytes INTEGER NOT NULL,
            unpacked_bytes INTEGER NOT NULL,
            files INTEGER NOT NULL,
            runtime TEXT NOT NULL,
            handler_file TEXT NOT NULL,
            handler_name TEXT NOT NULL,
            expects TEXT NOT NULL,
            created_at INTEGER NOT NULL
        ) STRICT
        """,
        """
        CREATE TABLE refs (
            name TEXT PRIMARY KEY,
            digest TEXT NOT NULL REFERENCES bundles (digest),
            updated_at INTEGER NOT NULL
        ) STRICT
        """,
        "CREATE INDEX refs_by_digest ON refs (digest)",
    ),
    (  # compartments and identity
        """
        CREATE TABLE compartments (
            id TEXT PRIMARY KEY,
            parent_id TEXT REFERENCES compartments (id),
            name TEXT NOT NULL COLLATE NOCASE,
            description TEXT NOT NULL,
            created_at INTEGER NOT NULL,
            UNIQUE (parent_id, name)
        ) STRICT
        """,
        # The one compartment without a parent is the tenancy; its random name makes key ids of two nodes differ.
        """
        INSERT INTO compartments
        VALUES ('ocid1.tenancy.oc1..' || lower(hex(randomblob(13))), NULL, 'root', 'The tenancy', unixepoch() * 1000)
        """,
        "ALTER TABLE apps ADD COLUMN compartment_id TEXT REFERENCES compartments (id)",
        "CREATE INDEX apps_by_compartment ON apps (compartment_id)",
        """
        CREATE TABLE users (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL UNIQUE COLLATE NOCASE,
            description TEXT NOT NULL,
            created_at INTEGER NOT NULL
        ) STRICT
        """,
        """
        CREATE TABLE api_keys (
            user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
            fingerprint TEXT NOT NULL,
            public_key TEXT NOT NULL,
            created_at INTEGER NOT NULL,
            PRIMARY KEY (user_id, fingerprint)
        ) STRICT, WITHOUT ROWID
        """,
        # Only a digest: who reads the database cannot use the token.
        """
        CREATE TABLE bearer_tokens (
            id TEXT PRIMARY KEY,
            user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
            digest BLOB NOT NULL UNIQUE,
            description TEXT NOT NULL,
            created_at INTEGER NOT NULL,
            expires_at INTEGER NOT NULL
        ) STRICT
        """,
        """
        CREATE TABLE groups (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL UNIQUE COLLATE NOCASE,
            description TEXT NOT NULL,
            rule TEXT,
            created_at INTEGER NOT NULL
        ) STRICT
        """,
        """
        CREATE TABLE members (
            group_id TEXT NOT NULL REFERENCES groups (id) ON DELETE CASCADE,
            user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
            PRIMARY KEY (group_id, user_id)
        ) STRICT, WITHOUT ROWID
        """,
        "CREATE INDEX members_by_user ON members (user_id)",
        """
        CREATE TABLE policies (
            id TEXT PRIMARY KEY,
            compartment_id TEXT NOT NULL REFERENCES compartments (id),
            name TEXT NOT NULL UNIQUE COLLATE NOCASE,
            description TEXT NOT NULL,
            statements TEXT NOT NULL,
            created_at INTEGER NOT NULL
        ) STRICT
        """,
        """
        CREATE TABLE audit (
            id INTEGER PRIMARY KEY,
            at INTEGER NOT NULL,
            principal TEXT NOT NULL,
            principal_name TEXT NOT NULL,
            action TEXT NOT NULL,
            target TEXT NOT NULL,
            outcome TEXT NOT NULL,
            source TEXT NOT NULL,
            detail TEXT NOT NULL
        ) STRICT
        """,
    ),
    (  # what the OCI API knows beyond the Fn API
        "ALTER TABLE apps ADD COLUMN freeform_tags TEXT NOT NULL DEFAULT '{}'",
        "ALTER TABLE apps ADD COLUMN defined_tags TEXT NOT NULL DEFAULT '{}'",
        "ALTER TABLE apps ADD COLUMN log_format TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE apps ADD COLUMN cloud TEXT NOT NULL DEFAULT '{}'",
        "ALTER TABLE functions ADD COLUMN state TEXT NOT NULL DEFAULT 'active'",
        "ALTER TABLE functions ADD COLUMN state_error TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE functions ADD COLUMN freeform_tags TEXT NOT NULL DEFAULT '{}'",
        "ALTER TABLE functions ADD COLUMN defined_tags TEXT NOT NULL DEFAULT '{}'",
        "ALTER TABLE versions ADD COLUMN handler TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE versions ADD COLUMN runtime TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE versions ADD COLUMN source TEXT NOT NULL DEFAULT '{}'",
        """
        CREATE TABLE work_requests (
            id TEXT PRIMARY KEY,
            operation TEXT NOT NULL,
            status TEXT NOT NULL,
            compartment_id TEXT NOT NULL,
            resource_type TEXT NOT NULL,
            resource_id TEXT NOT NULL,
            errors TEXT NOT NULL,
            logs TEXT NOT NULL,
            accepted_at INTEGER NOT NULL,
            started_at INTEGER NOT NULL,
            finished_at INTEGER NOT NULL
        ) STRICT
        """,
        "CREATE INDEX work_requests_by_resource ON work_requests (resource_id)",
    ),
    ("ALTER TABLE bundles ADD COLUMN layer TEXT NOT NULL DEFAULT ''",),
    (
        "ALTER TABLE bundles ADD COLUMN extra TEXT NOT NULL DEFAULT '{}'",  # adapter, command, environment
        "ALTER TABLE versions ADD COLUMN adapter TEXT NOT NULL DEFAULT ''",
    ),
    (
        """
        CREATE TABLE detached_calls (
            id TEXT PRIMARY KEY,
            function_id TEXT NOT NULL REFERENCES functions (id) ON DELETE CASCADE,
            state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'dead')),
            accepted_at INTEGER NOT NULL,
            due_at INTEGER NOT NULL,
            ended_at INTEGER NOT NULL,
            attempts INTEGER NOT NULL,
            interruptions INTEGER NOT NULL,
            size_bytes INTEGER NOT NULL,
            error TEXT NOT NULL,
            headers TEXT NOT NULL,
            body BLOB NOT NULL
        ) STRICT
        """,
        "CREATE INDEX detached_by_state ON detached_calls (state, accepted_at, id)",
        "CREATE INDEX detached_by_function ON detached_calls (function_id, state, accepted_at, id)",
        """
        CREATE TABLE deliveries (
            id TEXT PRIMARY KEY,
            function_id TEXT NOT NULL REFERENCES functions (id) ON DELETE CASCADE,
            call_id TEXT NOT NULL,
            outcome TEXT NOT NULL CHECK (outcome IN ('success', 'failure')),
            destination TEXT NOT NULL,
            record TEXT NOT NULL,
            attempts INTEGER NOT NULL,
            due_at INTEGER NOT NULL,
            created_at INTEGER NOT NULL
        ) STRICT
        """,
        "CREATE INDEX deliveries_by_function ON deliveries (function_id)",
    ),
    (
        "ALTER TABLE detached_calls ADD COLUMN caller TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE detached_calls ADD COLUMN redrive_of TEXT NOT NULL DEFAULT ''",
    ),
)
"""Migration n (from 1) brings a database of version n - 1 to version n (``PRAGMA user_version``)."""
