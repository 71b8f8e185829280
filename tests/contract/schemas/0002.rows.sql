INSERT INTO populations (name, created_at, latest_version, config_json, vocabulary_digest)
VALUES ('en', '2026-01-02 03:04:05.678901+00:00', 0, '{}', 'd');

INSERT INTO model_versions (population, version, created_at, download_digest, download_bytes, download_key,
                            checkpoint_key)
VALUES ('en', 0, '2026-01-02 03:04:05.678901+00:00', '1', 10, 'download', 'checkpoint');

INSERT INTO tasks (name, population, spec_json, status, created_at)
VALUES ('t', 'en', '1', 'active', '2026-01-02 03:04:05.678901+00:00');

INSERT INTO rounds (id, task, population, sequence, base_version, spec_json, opened_at, deadline_at, phase,
                    assigned, counted, failed, carried, weight, detail, figures_json)
VALUES ('t-1', 't', 'en', 1, 0, '1', '2026-01-02 03:04:05+00:00', '2026-01-02 03:14:05+00:00', 'collecting',
        1, 0, 0, 0, 0.0, '', '');

INSERT INTO devices (id, population, "user", app_build, locale, enrolled_at, last_seen_at, tier, tags)
VALUES ('a', 'en', 'vT0hJ3qkX2m9sY8bQw5Zrg', 1, 'en', '2026-01-02 03:04:05+00:00',
        '2026-01-02 03:04:05+00:00', 2, 'beta');

INSERT INTO heads (population, owner, tag, key_id, sealed, updated_at)
VALUES ('en', 'o', '1', 'k1', 'sealed', '2026-01-02 03:04:05+00:00');

INSERT INTO assignments (round_id, device, id, state, assigned_at, weight, session_shape)
VALUES ('t-1', 'a', 'assignment-of-a', 'assigned', '2026-01-02 03:04:05+00:00', 0.0, '');

INSERT INTO partials (round_id, replica, key, count, weight)
VALUES ('t-1', 'r.1', 'partial', 1, 1.0);

INSERT INTO arrivals (task, hour, check_ins, eligible)
VALUES ('t', 490000, 3, 2);
