"""Opening a database: where it may lie, how it is brought up to date, how it is copied."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import inspect
from typer.testing import CliRunner, Result

from collecting import a_set, said, some_sets
from plumbline.cli.main import app
from plumbline.errors import BadProject, MissingExtra, UserError
from plumbline.feedback import database, migrations, schema
from plumbline.feedback.database import file_system
from plumbline.feedback.migrations import upgrade
from plumbline.feedback.places import Progress
from plumbline.feedback.queue import Overlap, Queue
from plumbline.feedback.store import Store
from plumbline.project import Project

REVISIONS = sorted(path.name[1:5] for path in Path(migrations.__file__).parent.glob("m[0-9]*.py"))


def differences(store: Store) -> list[object]:
    """What Alembic would change so that the tables are those of the schema."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with store.read() as connection:
        return compare_metadata(MigrationContext.configure(connection), schema.metadata)


# ---- migrations


def test_a_new_database_has_the_tables_of_the_schema(empty: str) -> None:
    with Store.open(empty) as store:
        assert differences(store) == []
        assert set(inspect(store.engine).get_table_names()) == {*schema.metadata.tables, "alembic_version"}


def test_the_schema_names_the_newest_of_the_migrations() -> None:
    assert REVISIONS[-1] == schema.REVISION and len(set(REVISIONS)) == len(REVISIONS)


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_database_of_any_revision_comes_to_have_them(
    empty: str, revision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr(Store, "_bring_up_to_date", lambda store: None)
        with Store.open(empty) as store, store.write("migration") as connection:
            upgrade(connection, to=revision)
    with Store.open(empty) as store:
        assert differences(store) == []
        assert store.add_sets(some_sets(1)).new == 1


def test_an_older_database_frees_the_places_of_those_who_are_left_out(empty: str) -> None:
    with Store.open(empty) as store:
        store.add_sets(some_sets(2))
        queue = Queue(store, Overlap(each=1))
        who = store.add_labeler("Ann")
        for _ in range(2):
            claim = queue.claim(who.labeler_id)
            assert claim is not None
            store.submit(said(claim, who))
        store.exclude(who.labeler_id, {}, by="mo")
        with store.write() as connection:  # as the first tables had it
            connection.exec_driver_sql("UPDATE comparison_set SET counted = 1")
            connection.exec_driver_sql("ALTER TABLE overlap DROP COLUMN again_share")
            connection.exec_driver_sql("ALTER TABLE edit_event DROP COLUMN source")
            for table in ("exchange", "api_key"):
                connection.exec_driver_sql(f"DROP TABLE {table}")
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    with Store.open(empty) as store:
        assert store.progress() == Progress(waiting=2) and store.rebuild() == 0


def test_a_difference_would_be_seen(empty: str) -> None:
    with Store.open(empty) as store:
        with store.write() as connection:
            connection.exec_driver_sql("DROP INDEX ix_comparison_set_user_id")
            connection.exec_driver_sql("ALTER TABLE prompt DROP COLUMN digest")
        assert len(differences(store)) == 2


def test_processes_that_open_a_new_database_at_once_make_it_once(empty: str) -> None:
    program = f"""
import sys
from plumbline.feedback.store import Store
print("ready", flush=True)
sys.stdin.readline()
with Store.open({empty!r}) as store:
    print(store.count())
"""
    started = [
        subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in started:
        assert process.stdout and process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [(process.communicate()[0], process.returncode) for process in started] == [("0\n", 0)] * 2
    with Store.open(empty) as store:
        assert differences(store) == []


def test_a_migration_that_fails_leaves_nothing_behind(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(connection: object) -> None:
        upgrade(connection)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr("plumbline.feedback.migrations.upgrade", half)
        Store.open(empty)
    with Store.open(empty) as store:
        assert differences(store) == []


def test_a_database_of_a_newer_plumbline_is_refused(empty: str) -> None:
    with Store.open(empty) as store, store.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(BadProject, match="was written by a newer Plumbline or another program .*: update Plumbline"):
        Store.open(empty)


def test_tables_of_another_program_are_left_alone(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as before:
        before.setattr(Store, "_bring_up_to_date", lambda store: None)
        with Store.open(empty) as store, store.write() as connection:
            connection.exec_driver_sql("CREATE TABLE session (mine int)")
    with pytest.raises(BadProject, match="holds a table 'session' that is not ours: name another database"):
        Store.open(empty)


# ---- where it lies


def test_a_project_a_folder_a_file_and_a_url_name_the_same_database(tmp_path: Path) -> None:
    project = Project.create(tmp_path)
    for where in (project, tmp_path, tmp_path / "plumb.db", str(tmp_path), f"sqlite:///{tmp_path}/plumb.db"):
        with Store.open(where) as store:
            store.add_sets(some_sets(1))
            assert store.count() == 1 and store.file == tmp_path / "plumb.db"


def test_a_projects_settings_name_its_database_and_a_url_goes_before_them(tmp_path: Path) -> None:
    (tmp_path / "plumb.toml").write_text('database = "sqlite:///kept/here.db"\n')
    (tmp_path / "kept").mkdir()
    project = Project(tmp_path)
    with Store.open(project) as store:
        assert store.file == tmp_path / "kept" / "here.db" and store.project is project
    with Store.open(project, url="sqlite:///there.db") as store:
        assert store.file == tmp_path / "there.db" and store.project is project
    with Store.open(project, url=f"sqlite:///{tmp_path}/third.db") as store:
        assert store.file == tmp_path / "third.db"
    with pytest.raises(BadProject, match="--database is 'house': write a URL, postgresql://USER@HOST/NAME or sqlite"):
        Store.open(project, url="house")
    (tmp_path / "plumb.toml").write_text('database = "house.db"\n')
    with pytest.raises(BadProject, match="`database` in plumb.toml is 'house.db': write a URL"):
        Store.open(Project(tmp_path))
    assert not (tmp_path / "plumb.db").exists()


@pytest.mark.postgres
def test_commands_take_the_database_of_the_settings_and_of_the_option(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = request.getfixturevalue("postgres")
    here, there = server.new_database(), server.new_database()
    Project.create(tmp_path)
    (tmp_path / "plumb.toml").write_text(f'database = "{here}"\n')
    monkeypatch.chdir(tmp_path)
    line = {"prompt": "a?", "completions": ["b", "c"], "ranks": [1, 2], "flags": [False] * 2, "labeler_id": "ann"}
    names = {"set_id": "s", "instruction_version": "1"}
    (tmp_path / "said.jsonl").write_text(json.dumps({**names, **line}) + "\n")

    def plumb(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["feedback", *arguments], prog_name="plumb")

    assert plumb("import", "said.jsonl").exit_code == 0
    with Store.open(here) as store:
        assert store.count() == 1
    assert "nobody has ranked anything yet" in plumb("consensus", "--database", there).stderr
    out = plumb("export", "--format", "trl-dpo", "--out", "pairs.jsonl", "--plain-ids")
    assert out.exit_code == 0 and len((tmp_path / "pairs.jsonl").read_text().splitlines()) == 1
    backup = CliRunner().invoke(app, ["backup", "copy.db"], prog_name="plumb")
    assert backup.exit_code == 2 and "is a PostgreSQL database: use `pg_dump --format=custom`" in str(backup.stderr)
    assert not (tmp_path / "plumb.db").exists()


def test_only_the_owner_reads_the_file(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        store.add_sets(some_sets(1))
        store.backup(tmp_path / "copy.db")
        assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
            "plumb.db": 0o600,
            "plumb.db-wal": 0o600,
            "plumb.db-shm": 0o600,
            "copy.db": 0o600,
        }


def test_sqlite_waits_for_the_disk_and_checks_keys(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store, store.read() as connection:
        settings = ("journal_mode", "synchronous", "foreign_keys", "secure_delete", "busy_timeout")
        values = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in settings]
    assert values == ["wal", 2, 1, 1, 60_000]


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("mysql://me:secret@host/db", r"'mysql://me:\*\*\*@host/db' is a database that we do not know"),
        ("sqlite://", "is a database that we do not know: there are SQLite and PostgreSQL"),
        ("post gres://me:secret@host", r"'post gres://\.\.\.' is no database URL: write postgresql://USER@HOST/NAME"),
        ("/no/such/folder/plumb.db", "there is no folder '/no/such/folder' to keep the database in"),
        (
            "postgresql://me:secret@127.0.0.1:9/db",
            r"the database 'postgresql://me:\*\*\*@127.0.0.1:9/db' cannot be reached \(.*refused\): start the server",
        ),
        ("postgresql://me:secret@host:port/db", r"'postgresql://\.\.\.' is no database URL"),
    ],
)
def test_a_place_that_is_none_is_said_without_the_password(where: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as raised:
        Store.open(where)
    assert "secret" not in str(raised.value)


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database, but long enough to be looked at " * 9)
    with pytest.raises(BadProject, match=r"'.*notes.txt' cannot be used as a database: file is not a database"):
        Store.open(tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text().startswith("not a database")


def test_a_folder_that_takes_no_files_is_said() -> None:
    with pytest.raises(BadProject, match="'/proc/plumb.db' cannot be made or written: "):
        Store.open("/proc")


@pytest.mark.postgres
def test_a_turn_sees_what_the_turn_before_wrote_on_a_server_that_would_not_show_it(
    request: pytest.FixtureRequest,
) -> None:
    url = request.getfixturevalue("postgres").new_database()
    with Store.open(url) as store:
        with store.engine.connect() as connection:
            name = connection.engine.url.database
            connection.exec_driver_sql(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
            connection.commit()
    with Store.open(url) as store, store.write("queue") as connection:
        assert connection.exec_driver_sql("SHOW transaction_isolation").scalar() == "read committed"


def test_without_the_driver_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=re.escape("needs the extra `postgres`: pip install 'plumbline[postgres]'")):
        Store.open("postgresql://host/db")


@pytest.mark.postgres
def test_a_database_that_cannot_hold_every_text_is_refused(request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("postgres").new_database("ENCODING 'LATIN1' TEMPLATE template0")
    with pytest.raises(BadProject, match="cannot hold every text: make it with the encoding UTF8"):
        Store.open(url)


MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:40 / /share rw shared:1 - nfs4 server:/share rw,vers=4.2
31 30 0:41 / /share/local\\040dïsk rw - xfs /dev/vdb rw
32 22 0:42 / /net rw - ext4 /dev/vdc rw
33 32 0:43 / /net rw - cifs //server/share rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/srv", "ext4"),
        ("/share", "nfs4"),
        ("/share/ann/bot", "nfs4"),
        ("/shares", "ext4"),
        ("/share/local dïsk/bot", "xfs"),
        ("/net/x", "cifs"),
    ],
)
def test_the_file_system_of_a_folder_is_that_of_its_innermost_mount(tmp_path: Path, folder: str, kind: str) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTS)
    assert file_system(Path(folder), tmp_path / "mountinfo") == kind
    assert file_system(Path(folder), tmp_path / "none") == ""


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "file_system", lambda folder, mounts: "nfs4")
    with pytest.raises(BadProject, match=r"lies on a network file system \(nfs4\), where SQLite loses data"):
        Store.open(tmp_path)
    assert list(tmp_path.iterdir()) == []


# ---- what goes wrong later


def test_a_disk_that_is_full_is_a_sentence_and_loses_nothing(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        store.add_sets(some_sets(1))
        with store.read() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        store.engine.dispose()
        with store.write() as connection:
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
        with pytest.raises(UserError, match=r"the database '.*plumb.db' failed: database or disk is full"):
            store.add_sets([a_set("large", prompt="x" * 1_000_000)])
        assert [each.set_id for each in store.sets()] == ["s0"]


# ---- copies


def test_a_backup_is_taken_while_the_database_is_in_use_and_put_back(tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    with Store.open(tmp_path) as store:
        store.add_sets(some_sets(30))
        reading = store.sets()
        next(reading)
        store.backup(copy)
        store.add_sets([a_set("later")])
        assert len(list(reading)) == 29
        reading = store.sets()
        next(reading)
        store.restore(copy)
        assert len(list(reading)) == 30  # what was begun before reads what was there before
        assert store.count() == 30 and differences(store) == []
        store.add_sets([a_set("later still")])
    with Store.open(copy) as store:
        assert store.count() == 30
    assert not list(tmp_path.glob(".*"))


def test_a_file_that_is_no_backup_is_not_put_back(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        store.add_sets(some_sets(1))
        (tmp_path / "text").write_text("no database " * 99)
        other = sqlite3.connect(tmp_path / "other")
        other.execute("CREATE TABLE mine (x)")
        other.close()
        with pytest.raises(UserError, match="there is no backup '.*absent': check its name and folder"):
            store.restore(tmp_path / "absent")
        for name in ("text", "other"):
            with pytest.raises(UserError, match=f"'.*{name}' is no backup of a Plumbline database: "):
                store.restore(tmp_path / name)
        assert store.count() == 1


@pytest.mark.postgres
def test_for_postgres_the_tool_is_named(request: pytest.FixtureRequest) -> None:
    with Store.open(request.getfixturevalue("postgres").new_database()) as store:
        with pytest.raises(UserError, match="is a PostgreSQL database: use `pg_dump --format=custom`"):
            store.backup(Path("copy"))
        with pytest.raises(UserError, match="is a PostgreSQL database: use `pg_restore --clean`"):
            store.restore(Path("copy"))
