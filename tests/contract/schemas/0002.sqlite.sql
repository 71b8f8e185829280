CREATE TABLE arrivals (
    task VARCHAR(64) NOT NULL,
    hour INTEGER NOT NULL,
    check_ins INTEGER NOT NULL,
    eligible INTEGER NOT NULL,
    PRIMARY KEY (task, hour)
);

CREATE TABLE cluster (
    name VARCHAR(64) NOT NULL,
    value VARCHAR(128) NOT NULL,
    PRIMARY KEY (name)
);

CREATE TABLE leases (
    name VARCHAR(64) NOT NULL,
    holder VARCHAR(64) NOT NULL,
    epoch INTEGER NOT NULL,
    expires_at DATETIME NOT NULL,
    PRIMARY KEY (name)
);

CREATE TABLE populations (
    name VARCHAR(64) NOT NULL,
    created_at DATETIME NOT NULL,
    latest_version INTEGER NOT NULL,
    config_json TEXT NOT NULL,
    vocabulary_digest VARCHAR(64) NOT NULL,
    personalisation_json BLOB,
    average_key VARCHAR(255),
    PRIMARY KEY (name)
);

CREATE TABLE devices (
    id VARCHAR(64) NOT NULL,
    population VARCHAR(64) NOT NULL,
    user VARCHAR(128),
    app_build INTEGER NOT NULL,
    locale VARCHAR(35) NOT NULL,
    enrolled_at DATETIME NOT NULL,
    last_seen_at DATETIME NOT NULL,
    last_contributed_at DATETIME,
    tier INTEGER DEFAULT '0' NOT NULL,
    tags VARCHAR(527) DEFAULT '' NOT NULL,
    standing_json BLOB,
    quarantined_until DATETIME,
    PRIMARY KEY (id),
    FOREIGN KEY(population) REFERENCES populations (name)
);

CREATE INDEX devices_by_last_seen ON devices (population, last_seen_at);

CREATE INDEX devices_by_quarantine ON devices (quarantined_until);

CREATE INDEX devices_by_user ON devices (population, user);

CREATE TABLE heads (
    population VARCHAR(64) NOT NULL,
    owner VARCHAR(64) NOT NULL,
    tag BLOB NOT NULL,
    key_id VARCHAR(8) NOT NULL,
    sealed BLOB NOT NULL,
    updated_at DATETIME NOT NULL,
    PRIMARY KEY (population, owner),
    FOREIGN KEY(population) REFERENCES populations (name)
);

CREATE INDEX heads_by_key ON heads (key_id);

CREATE TABLE model_versions (
    population VARCHAR(64) NOT NULL,
    version INTEGER NOT NULL,
    parent INTEGER,
    round_id VARCHAR(96),
    created_at DATETIME NOT NULL,
    download_digest BLOB NOT NULL,
    download_bytes INTEGER NOT NULL,
    download_key VARCHAR(255) NOT NULL,
    checkpoint_key VARCHAR(255) NOT NULL,
    released_digest BLOB,
    released_bytes INTEGER,
    released_key VARCHAR(255),
    PRIMARY KEY (population, version),
    FOREIGN KEY(population) REFERENCES populations (name)
);

CREATE TABLE tasks (
    name VARCHAR(64) NOT NULL,
    population VARCHAR(64) NOT NULL,
    spec_json BLOB NOT NULL,
    status VARCHAR(16) NOT NULL,
    created_at DATETIME NOT NULL,
    optimizer_state_key VARCHAR(255),
    PRIMARY KEY (name),
    FOREIGN KEY(population) REFERENCES populations (name)
);

CREATE TABLE rounds (
    id VARCHAR(96) NOT NULL,
    task VARCHAR(64) NOT NULL,
    population VARCHAR(64) NOT NULL,
    sequence INTEGER NOT NULL,
    base_version INTEGER NOT NULL,
    spec_json BLOB NOT NULL,
    opened_at DATETIME NOT NULL,
    deadline_at DATETIME NOT NULL,
    phase VARCHAR(16) NOT NULL,
    assigned INTEGER NOT NULL,
    counted INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    carried INTEGER DEFAULT '0' NOT NULL,
    weight FLOAT NOT NULL,
    closed_at DATETIME,
    result_version INTEGER,
    detail TEXT NOT NULL,
    figures_json TEXT NOT NULL,
    aggregate_key VARCHAR(255),
    stepped_from INTEGER,
    checkpoint_key VARCHAR(255),
    download_key VARCHAR(255),
    state_key VARCHAR(255),
    average_key VARCHAR(255),
    released_key VARCHAR(255),
    PRIMARY KEY (id),
    UNIQUE (task, sequence),
    FOREIGN KEY(task) REFERENCES tasks (name)
);

CREATE INDEX rounds_by_phase ON rounds (phase, task);

CREATE TABLE assignments (
    round_id VARCHAR(96) NOT NULL,
    device VARCHAR(64) NOT NULL,
    id VARCHAR(32) NOT NULL,
    state VARCHAR(16) NOT NULL,
    assigned_at DATETIME NOT NULL,
    report_digest BLOB,
    weight FLOAT NOT NULL,
    session_shape VARCHAR(32) NOT NULL,
    counted_in VARCHAR(96),
    counted_at DATETIME,
    PRIMARY KEY (round_id, device),
    FOREIGN KEY(round_id) REFERENCES rounds (id)
);

CREATE INDEX assignments_by_device ON assignments (device);

CREATE INDEX assignments_open ON assignments (assigned_at) WHERE state = 'assigned';

CREATE TABLE partials (
    round_id VARCHAR(96) NOT NULL,
    replica VARCHAR(160) NOT NULL,
    "key" VARCHAR(255) NOT NULL,
    count INTEGER NOT NULL,
    weight FLOAT NOT NULL,
    PRIMARY KEY (round_id, replica),
    FOREIGN KEY(round_id) REFERENCES rounds (id)
);

CREATE TABLE round_verdicts (
    round_id VARCHAR(96) NOT NULL,
    verdict VARCHAR(32) NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (round_id, verdict),
    FOREIGN KEY(round_id) REFERENCES rounds (id)
);

CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);

INSERT INTO alembic_version (version_num) VALUES ('0002');
