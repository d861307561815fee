//! Tells a person what happens, when it happens: one line for each event and, on a terminal, a live table beneath.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::fleet::Fleet;
use crate::watch::State;

/// How often the live table is drawn: fast for an eye, slow for a terminal.
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// The lines of one run, with times since its start.
#[derive(Debug)]
pub struct Story {
    started: Instant,
    screen: Arc<Mutex<Screen>>,
    drawing: Option<AbortHandle>,
}

#[derive(Debug)]
struct Screen {
    terminal: bool,
    rows: Vec<Row>,
    /// Lines of the table that are on the terminal now.
    drawn: usize,
}

#[derive(Debug)]
struct Row {
    name: String,
    rank: i64,
    state: watch::Receiver<State>,
}

impl Story {
    /// Starts the clock.
    #[must_use]
    pub fn begin() -> Self {
        let screen = Screen { terminal: std::io::stdout().is_terminal(), rows: Vec::new(), drawn: 0 };
        Self { started: Instant::now(), screen: Arc::new(Mutex::new(screen)), drawing: None }
    }

    /// Shows the members of this fleet in the live table from now on.
    pub fn follow(&mut self, fleet: &Fleet) {
        let mut screen = lock(&self.screen);
        screen.rows = fleet
            .members
            .iter()
            .map(|member| Row {
                name: member.name().to_owned(),
                rank: member.plan.object["spec"]["rank"].as_i64().unwrap_or(0),
                state: member.watch.subscribe(),
            })
            .collect();
        if !screen.terminal {
            return;
        }
        drop(screen);
        let screen = Arc::clone(&self.screen);
        let task = tokio::spawn(async move {
            loop {
                lock(&screen).draw();
                tokio::time::sleep(DRAW_EVERY).await;
            }
        });
        self.drawing = Some(task.abort_handle());
    }

    /// Something happened now.
    pub fn now(&self, who: &str, what: &str) {
        self.at(Instant::now(), who, what);
    }

    /// Something happened then.
    pub fn at(&self, when: Instant, who: &str, what: &str) {
        let seconds = when.saturating_duration_since(self.started).as_secs_f64();
        self.line(&format!("{seconds:8.2} s  {who:<10} {what}"));
    }

    /// A line as it is.
    pub fn line(&self, text: &str) {
        lock(&self.screen).print(text);
    }

    /// Takes the live table away.
    pub fn end_table(&mut self) {
        if let Some(drawing) = self.drawing.take() {
            drawing.abort();
        }
        let mut screen = lock(&self.screen);
        screen.clear();
        screen.rows.clear();
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        self.end_table();
    }
}

impl Screen {
    fn print(&mut self, text: &str) {
        self.clear();
        let _ = writeln!(std::io::stdout(), "{text}");
        self.draw();
    }

    fn clear(&mut self) {
        if self.drawn > 0 {
            // Up to the first line of the table, then erase to the end of the screen.
            let mut out = std::io::stdout().lock();
            let _ = write!(out, "\x1b[{}A\x1b[J", self.drawn);
            let _ = out.flush();
            self.drawn = 0;
        }
    }

    fn draw(&mut self) {
        if !self.terminal || self.rows.is_empty() {
            return;
        }
        self.clear();
        let mut text = String::from("\n");
        let _ = writeln!(
            text,
            "             {:<12}{:>5}  {:<12}{:>5}  payload",
            "cluster", "rank", "role", "term"
        );
        for row in &self.rows {
            let _ = writeln!(text, "             {}", row.text());
        }
        self.drawn = text.lines().count();
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(text.as_bytes());
        let _ = out.flush();
    }
}

impl Row {
    fn text(&self) -> String {
        let state = self.state.borrow();
        let role = state.status(&self.name, "role").as_str().unwrap_or("-").to_owned();
        let term = state.status(&self.name, "term").as_i64().map_or("-".to_owned(), |term| term.to_string());
        let (pods, ready) = state.pods();
        let payload = match state.deployment() {
            Some((_, deployment)) => format!("{} {ready}/{pods} pods ready", deployment.name),
            None if pods > 0 => format!("{pods} pods ending"),
            None => "-".to_owned(),
        };
        format!("{:<12}{:>5}  {role:<12}{term:>5}  {payload}", self.name, self.rank)
    }
}

fn lock(screen: &Mutex<Screen>) -> std::sync::MutexGuard<'_, Screen> {
    screen.lock().unwrap_or_else(PoisonError::into_inner)
}
