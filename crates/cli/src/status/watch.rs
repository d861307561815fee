//! `flagship status -w`: draws anew every second on the terminal's second screen, until q or Ctrl-C.

use std::io::{IsTerminal as _, Read as _};
use std::os::fd::AsFd;
use std::time::Duration;

use jiff::Timestamp;
use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr};
use tokio::sync::mpsc;

use super::{StatusView, ask, exit, text};
use crate::args::StatusArgs;
use crate::cluster::Connection;
use crate::exit::{Exit, Stop};
use crate::out::print;
use crate::style::Style;

const INTERVAL: Duration = Duration::from_secs(1);
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

/// The terminal while keys are read one by one; as before when dropped.
struct Keys {
    before: Option<Termios>,
}

impl Keys {
    fn read_singly() -> Self {
        let stdin = std::io::stdin();
        let before = stdin.is_terminal().then(|| tcgetattr(stdin.as_fd()).ok()).flatten();
        if let Some(before) = &before {
            let mut raw = before.clone();
            // Signals stay on, so that Ctrl-C works.
            raw.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
            raw.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
            raw.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
            let _ = tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw);
        }
        Self { before }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, before);
        }
    }
}

struct Screen(bool);

impl Screen {
    fn enter() -> Result<Self, Stop> {
        let terminal = std::io::stdout().is_terminal();
        if terminal {
            print(ENTER)?;
        }
        Ok(Self(terminal))
    }

    /// Overwrites line by line, so that nothing flickers; into a file, pictures follow one another.
    fn draw(&self, text: &str) -> Result<(), Stop> {
        if !self.0 {
            return print(&format!("{text}\n"));
        }
        let lines = text.replace('\n', &format!("{CLEAR_LINE}\n"));
        print(&format!("{HOME}{lines}{CLEAR_LINE}\nq quits{CLEAR_LINE}{CLEAR_BELOW}"))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.0 {
            let _ = print(LEAVE);
        }
    }
}

pub(super) async fn run(args: &StatusArgs, connections: &[Connection]) -> Result<Exit, Stop> {
    let _keys = Keys::read_singly();
    let screen = Screen::enter()?;
    let style = Style::detect();
    let mut quit = quit_keys();
    let mut tick = tokio::time::interval(INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    let mut last = Exit::Success;
    loop {
        tokio::select! {
            _ = &mut interrupted => return Ok(last),
            Some(()) = quit.recv() => return Ok(last),
            _ = tick.tick() => {}
        }
        let answers = tokio::select! {
            _ = &mut interrupted => return Ok(last),
            Some(()) = quit.recv() => return Ok(last),
            answers = ask(connections) => answers,
        };
        let view = StatusView::new(&answers, Timestamp::now());
        last = exit(&view);
        screen.draw(&text(&view, args.output, style)?)?;
    }
}

/// Says so when q is typed. The end of the input is not a wish to quit: it may be /dev/null. A thread of its own,
/// as nothing can end a read from a terminal, and the process must end without waiting for it.
fn quit_keys() -> mpsc::Receiver<()> {
    let (typed, keys) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin();
        let mut key = [0];
        while let Ok(1) = stdin.read(&mut key) {
            if matches!(key[0], b'q' | b'Q') && typed.blocking_send(()).is_err() {
                return;
            }
        }
    });
    keys
}
