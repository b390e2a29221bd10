//! A PostgreSQL for the tests: the server that `TEST_POSTGRES_URL` names, or else one
//! that is started on a folder of its own from an installed PostgreSQL, and stopped when
//! the tests end.
//!
//! Where there is neither, the tests that need one say so and do nothing; with
//! `REQUIRE_POSTGRES=1` they fail.

use std::{
    env,
    fs::{self, File},
    io::{self, Write},
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{LazyLock, Once},
    time::Instant,
};

use rustix::process::{Pid, kill_process};
use sea_orm::ConnectionTrait;
use tempfile::TempDir;
use uuid::Uuid;

use crate::support::{Engine, PATIENCE, Signal};

/// Where PostgreSQL's programs are on the usual systems, beside the PATH.
const FOLDERS: [&str; 2] = ["/usr/lib/postgresql", "/usr/local/pgsql"];

/// The server's URL, without a database; `None` if there is no PostgreSQL.
static SERVER: LazyLock<Option<String>> = LazyLock::new(|| {
    if let Ok(url) = env::var("TEST_POSTGRES_URL") {
        // Without the database, of which each test has its own.
        let host = url.find("://").map_or(0, |scheme| scheme + 3);
        let end = url[host..].find('/').map_or(url.len(), |path| host + path);
        return Some(url[..end].to_owned());
    }
    let programs = programs()?;
    let mut cluster = Cluster::make(&programs);
    // Its tests do not pull the plug, and there are many databases to make.
    cluster.start_with("fsync=off");
    let server = cluster.server();
    // It lives as long as the process.
    std::mem::forget(cluster);
    Some(server)
});

/// Whether a test that needs PostgreSQL cannot run, which it says once.
pub fn is_missing() -> bool {
    static SAY: Once = Once::new();
    if SERVER.is_some() {
        return false;
    }
    assert!(
        env::var("REQUIRE_POSTGRES").is_err(),
        "REQUIRE_POSTGRES is set, and there is no PostgreSQL"
    );
    SAY.call_once(|| {
        // Unlike what a test prints, this is shown when it succeeds.
        let said = writeln!(
            io::stderr(),
            "\nNOT RUN: the tests on PostgreSQL, for none is installed and TEST_POSTGRES_URL is not set\n"
        );
        said.unwrap();
    });
    true
}

/// The engines that are here.
pub fn engines() -> Vec<Engine> {
    if is_missing() {
        vec![Engine::Sqlite]
    } else {
        vec![Engine::Sqlite, Engine::Postgres]
    }
}

/// Makes an empty database: its URL.
pub fn create_database() -> String {
    let server = SERVER.as_ref().expect("there is a PostgreSQL");
    let name = format!("usher_test_{}", Uuid::now_v7().simple());
    execute(
        format!("{server}/postgres"),
        format!("CREATE DATABASE {name}"),
    );
    format!("{server}/{name}")
}

/// Removes a database that [`create_database`] made, where it would stay otherwise.
pub fn drop_database(url: &str) {
    if env::var("TEST_POSTGRES_URL").is_err() {
        return;
    }
    if let Some((server, name)) = url.rsplit_once('/') {
        let drop = format!("DROP DATABASE {name} WITH (FORCE)");
        execute(format!("{server}/postgres"), drop);
    }
}

/// Executes a statement on a runtime of its own, for the caller may be on one.
fn execute(url: String, statement: String) {
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let connection = sea_orm::Database::connect(url).await.unwrap();
            connection.execute_unprepared(&statement).await.unwrap();
            connection.close().await.unwrap();
        });
    });
    thread.join().unwrap();
}

/// The folder of `initdb` and `postgres`.
fn programs() -> Option<PathBuf> {
    let versions = FOLDERS.iter().flat_map(|folder| {
        let entries = fs::read_dir(folder).into_iter().flatten();
        let folders = entries.filter_map(|entry| Some(entry.ok()?.path().join("bin")));
        let mut folders: Vec<_> = folders.chain([Path::new(folder).join("bin")]).collect();
        folders.sort();
        folders.reverse();
        folders
    });
    let path = env::var_os("PATH").unwrap_or_default();
    let path: Vec<_> = env::split_paths(&path).collect();
    versions
        .chain(path)
        .find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists())
}

/// A server of our own. It is stopped when this is dropped, or when the process ends,
/// however that ends.
pub struct Cluster {
    programs: PathBuf,
    folder: PathBuf,
    owner: Option<Owner>,
    running: Option<Child>,
}

impl Cluster {
    /// One that a test may stop and freeze; `None` if there is no PostgreSQL to make it of.
    pub fn new() -> Option<Self> {
        if is_missing() {
            return None;
        }
        let programs = programs();
        assert!(
            programs.is_some() || env::var("REQUIRE_POSTGRES").is_err(),
            "REQUIRE_POSTGRES is set, and no PostgreSQL is installed"
        );
        let mut cluster = Self::make(&programs?);
        cluster.start();
        Some(cluster)
    }

    fn make(programs: &Path) -> Self {
        let folder = TempDir::new().unwrap().keep();
        // PostgreSQL does not run as root.
        let owner = Owner::of_postgres();
        if let Some(owner) = &owner {
            chown(&folder, Some(owner.uid), Some(owner.gid)).unwrap();
        }
        let cluster = Self {
            programs: programs.to_owned(),
            folder,
            owner,
            running: None,
        };
        let made = cluster
            .command(&programs.join("initdb"))
            .args([
                "--no-sync",
                "--auth=trust",
                "--username=postgres",
                "--encoding=UTF8",
            ])
            .arg("--pgdata")
            .arg(cluster.data())
            .status();
        assert!(made.unwrap().success(), "initdb");
        cluster
    }

    /// Starts it, and waits until it takes connections.
    pub fn start(&mut self) {
        self.start_with("fsync=on");
    }

    fn start_with(&mut self, setting: &str) {
        // The shell stops the server when its own standard input ends, and removes the
        // folder if nobody said that it is to be kept.
        let script = "\"$@\" & read -r keep; kill -s INT $!; wait $!; \
                      [ \"$keep\" ] || rm -rf \"$0\"";
        let running = self
            .command(Path::new("/bin/sh"))
            .args(["-c", script])
            .arg(&self.folder)
            .arg(self.programs.join("postgres"))
            .arg("-D")
            .arg(self.data())
            .arg("-k")
            .arg(&self.folder)
            .args(["-c", "listen_addresses="])
            .args(["-c", "max_connections=300"])
            .args(["-c", setting])
            .stdin(Stdio::piped())
            .stderr(File::create(self.folder.join("log")).unwrap())
            .spawn();
        let mut running = running.unwrap();
        let begun = Instant::now();
        while !self.is_ready() {
            let ended = running.try_wait().unwrap().is_some();
            if ended || begun.elapsed() > PATIENCE {
                let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                panic!("PostgreSQL does not start:\n{log}");
            }
            std::thread::yield_now();
        }
        self.running = Some(running);
    }

    /// Stops it, and waits until it is gone.
    pub fn stop(&mut self) {
        let mut running = self.running.take().expect("it runs");
        writeln!(running.stdin.take().unwrap(), "keep").unwrap();
        assert!(running.wait().unwrap().success());
    }

    /// Stops the processes of the server where they stand (`Signal::STOP`), or lets them
    /// go on (`Signal::CONT`).
    pub fn signal(&self, signal: Signal) {
        let file = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let Some(postmaster) = file.lines().next() else {
            return;
        };
        // The postmaster first, for it has children while it runs.
        send(postmaster, signal);
        let is_child = |process: &String| {
            let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
            let after_name = stat.rsplit_once(") ").map(|(_, fields)| fields);
            after_name.and_then(|fields| fields.split(' ').nth(1)) == Some(postmaster)
        };
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let names = processes.filter_map(|entry| entry.file_name().into_string().ok());
        for child in names.filter(is_child) {
            send(&child, signal);
        }
    }

    /// Its URL, with the database that every server has.
    pub fn url(&self) -> String {
        format!("{}/postgres", self.server())
    }

    fn server(&self) -> String {
        // By its socket, in the folder that only it has.
        let folder = self.folder.display().to_string().replace('/', "%2F");
        format!("postgres://postgres@{folder}")
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn is_ready(&self) -> bool {
        let asked = self
            .command(&self.programs.join("pg_isready"))
            .arg("-q")
            .arg("-h")
            .arg(&self.folder)
            .status();
        asked.unwrap().success()
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        if let Some(owner) = &self.owner {
            command.uid(owner.uid).gid(owner.gid);
        }
        command.current_dir(&self.folder).stdout(Stdio::null());
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // What is stopped where it stands does not end.
        self.signal(Signal::CONT);
        if let Some(mut running) = self.running.take() {
            drop(running.stdin.take());
            let _ = running.wait();
        }
    }
}

/// Sends a signal to a process, which may have ended.
fn send(process: &str, signal: Signal) {
    if let Some(process) = process.parse().ok().and_then(Pid::from_raw) {
        let _ = kill_process(process, signal);
    }
}

/// Who may run PostgreSQL, if we are root.
struct Owner {
    uid: u32,
    gid: u32,
}

impl Owner {
    fn of_postgres() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let users = fs::read_to_string("/etc/passwd").unwrap();
        let user = users.lines().find(|line| line.starts_with("postgres:"));
        let fields: Vec<&str> = user.expect("there is a user postgres").split(':').collect();
        Some(Self {
            uid: fields[2].parse().unwrap(),
            gid: fields[3].parse().unwrap(),
        })
    }
}
