//! The flags of `flagship witness`: as short as can be for one fleet, and the same flags with a callsign for many.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use flagship_types::{Callsign, MemberName, PeerAddress, parse_duration};

use crate::args::{BindAddress, BindAddressError, ProcessArgs};
use crate::exit::{Exit, Stop};

/// The port of an address without one, as in MultiClusters.
const DEFAULT_PORT: u16 = 9990;
/// Addresses per fleet, as many as `spec.fleet` may have.
const MAX_SEEDS: usize = 64;

/// The witness's settings. Callsigns hold no white space, so that lists in the environment are separated by it.
#[derive(Debug, Clone, Args)]
pub struct WitnessArgs {
    /// Callsign of a fleet; give it once per fleet (in the environment separated by spaces)
    #[arg(
        long = "callsign",
        env = "FLAGSHIP_CALLSIGN",
        value_name = "CALLSIGN",
        required = true,
        value_delimiter = ' '
    )]
    pub callsigns: Vec<Callsign>,
    /// Where members of the fleet can be dialled: HOST[:PORT],…; of one fleet among several: CALLSIGN=HOST[:PORT],… (in the environment separated by spaces). Not needed if members dial the witness; the ones it met are remembered
    #[arg(
        long = "fleet",
        env = "FLAGSHIP_FLEET",
        value_name = "[CALLSIGN=]ADDRESS,…",
        value_delimiter = ' '
    )]
    pub seeds: Vec<OfFleet<Seeds>>,
    /// The witness's name as a member, needed if its certificates have more than one for the fleet; in one fleet among several: CALLSIGN=NAME [default: the name in the certificate]
    #[arg(long = "name", env = "FLAGSHIP_NAME", value_name = "[CALLSIGN=]NAME", value_delimiter = ' ')]
    pub names: Vec<OfFleet<MemberName>>,
    /// Vouch for a witness that lost its record of votes: [CALLSIGN=]NUMBER, the number that its log names. Says nothing about any later record
    #[arg(long = "admit", env = "FLAGSHIP_ADMIT", value_name = "[CALLSIGN=]NUMBER", value_delimiter = ' ')]
    pub admit: Vec<OfFleet<u64>>,
    /// Where members connect, for all fleets
    #[arg(long, env = "FLAGSHIP_LISTEN", value_name = "ADDRESS", default_value = ":9990", value_parser = listen)]
    pub listen: SocketAddr,
    /// Where members can dial this witness, HOST[:PORT]; they are told. Without it they need it in spec.fleet, or wait until it dials them
    #[arg(long, env = "FLAGSHIP_SERVICE_ADDRESS", value_name = "ADDRESS", value_parser = address)]
    pub service_address: Option<PeerAddress>,
    /// Directory of its own, for what it voted. It must survive restarts of the machine, and must not be restored from a backup
    #[arg(long, env = "FLAGSHIP_STATE_DIR", value_name = "DIR", default_value = "/var/lib/flagship-witness")]
    pub state_dir: PathBuf,
    /// How often it shows that it lives, as spec.membership.beatInterval of the members; 100ms to 10s
    #[arg(long, env = "FLAGSHIP_BEAT_INTERVAL", value_name = "DURATION", default_value = "1s", value_parser = beat_interval)]
    pub beat_interval: Duration,
    /// The least silence after which it suspects a member that it alone watches, as spec.membership.silenceFloor of the members; 100ms to 10m
    #[arg(long, env = "FLAGSHIP_SILENCE_FLOOR", value_name = "DURATION", default_value = "3s", value_parser = silence_floor)]
    pub silence_floor: Duration,
    /// What it shares with other processes.
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// One fleet of a witness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessFleet {
    /// The fleet.
    pub callsign: Callsign,
    /// The witness's name there; `None`: the one in its certificate.
    pub name: Option<MemberName>,
    /// Where members may be found.
    pub seeds: Vec<PeerAddress>,
    /// The record for which an operator vouches.
    pub admit: Option<u64>,
}

/// A value for one fleet, or for the only one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfFleet<T> {
    callsign: Option<Callsign>,
    value: T,
}

/// Addresses separated by commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seeds(Vec<PeerAddress>);

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',').map(address).collect::<Result<_, _>>().map(Self)
    }
}

impl<T: FromStr<Err: ToString>> FromStr for OfFleet<T> {
    type Err = String;

    /// A callsign may hold `=`; names and addresses do not.
    fn from_str(text: &str) -> Result<Self, String> {
        let (callsign, value) = match text.rsplit_once('=') {
            Some((callsign, value)) => {
                (Some(callsign.parse::<Callsign>().map_err(|error| error.to_string())?), value)
            }
            None => (None, text),
        };
        Ok(Self { callsign, value: value.parse().map_err(|error: T::Err| error.to_string())? })
    }
}

fn address(text: &str) -> Result<PeerAddress, String> {
    PeerAddress::parse(text, DEFAULT_PORT).map_err(|error| error.to_string())
}

fn listen(text: &str) -> Result<SocketAddr, String> {
    let BindAddress(address) = text.parse().map_err(|error: BindAddressError| error.to_string())?;
    address.ok_or_else(|| "members have to reach it: write :PORT or IP:PORT".into())
}

fn beat_interval(text: &str) -> Result<Duration, String> {
    within(text, Duration::from_millis(100), Duration::from_secs(10), "from 100ms to 10s")
}

fn silence_floor(text: &str) -> Result<Duration, String> {
    within(text, Duration::from_millis(100), Duration::from_secs(600), "from 100ms to 10m")
}

fn within(text: &str, least: Duration, most: Duration, range: &str) -> Result<Duration, String> {
    let duration = parse_duration(text).map_err(|error| error.to_string())?;
    if (least..=most).contains(&duration) { Ok(duration) } else { Err(range.into()) }
}

impl WitnessArgs {
    /// The fleets, each once, with what was said of them.
    pub fn fleets(&self) -> Result<Vec<WitnessFleet>, Stop> {
        let mut seen = BTreeSet::new();
        if let Some(twice) = self.callsigns.iter().find(|callsign| !seen.insert(*callsign)) {
            return Err(usage(format!("--callsign {twice} is given twice: once per fleet")));
        }
        let mut fleets: Vec<_> = self
            .callsigns
            .iter()
            .map(|callsign| WitnessFleet {
                callsign: callsign.clone(),
                name: None,
                seeds: Vec::new(),
                admit: None,
            })
            .collect();
        for OfFleet { callsign, value: Seeds(seeds) } in &self.seeds {
            let fleet = find(&mut fleets, callsign.as_ref(), "--fleet", "HOST:PORT")?;
            fleet.seeds.extend_from_slice(seeds);
            if fleet.seeds.len() > MAX_SEEDS {
                let callsign = &fleet.callsign;
                return Err(usage(format!(
                    "--fleet: more than {MAX_SEEDS} addresses for fleet {callsign}; a few are enough"
                )));
            }
        }
        for OfFleet { callsign, value: name } in &self.names {
            let fleet = find(&mut fleets, callsign.as_ref(), "--name", "NAME")?;
            if let Some(other) = fleet.name.replace(name.clone()) {
                let callsign = &fleet.callsign;
                return Err(usage(format!(
                    "--name: both {other} and {name} for fleet {callsign}; it has one name there"
                )));
            }
        }
        for OfFleet { callsign, value } in &self.admit {
            find(&mut fleets, callsign.as_ref(), "--admit", "NUMBER")?.admit = Some(*value);
        }
        Ok(fleets)
    }
}

fn find<'a>(
    fleets: &'a mut [WitnessFleet],
    callsign: Option<&Callsign>,
    flag: &str,
    value: &str,
) -> Result<&'a mut WitnessFleet, Stop> {
    match (callsign, fleets) {
        (None, [only]) => Ok(only),
        (None, _) => {
            Err(usage(format!("{flag}: there is more than one --callsign, so write CALLSIGN={value}")))
        }
        (Some(callsign), fleets) => {
            let found = fleets.iter_mut().find(|fleet| fleet.callsign == *callsign);
            found.ok_or_else(|| usage(format!("{flag} {callsign}=…: there is no --callsign {callsign}")))
        }
    }
}

fn usage(message: String) -> Stop {
    Stop::new(Exit::Usage, message)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn parse(args: &[&str]) -> Result<WitnessArgs, clap::Error> {
        let Command::Witness(args) = Cli::try_parse_from([&["flagship", "witness"], args].concat())?.command
        else {
            panic!("not witness")
        };
        Ok(*args)
    }

    /// Callsign, name and seeds.
    type Said = (String, Option<String>, Vec<String>);

    fn fleets(args: &[&str]) -> Result<Vec<Said>, String> {
        let fleets = parse(args).map_err(|error| error.to_string())?.fleets().map_err(|stop| stop.message)?;
        let text = |fleet: WitnessFleet| {
            let seeds = fleet.seeds.iter().map(ToString::to_string).collect();
            (fleet.callsign.to_string(), fleet.name.map(|name| name.to_string()), seeds)
        };
        Ok(fleets.into_iter().map(text).collect())
    }

    #[test]
    fn one_fleet_is_simple() {
        let args = parse(&["--callsign", "federation"]).unwrap();
        assert_eq!(args.listen.to_string(), "[::]:9990");
        assert_eq!(
            (args.beat_interval, args.silence_floor),
            (Duration::from_secs(1), Duration::from_secs(3))
        );
        let seeds =
            ["--callsign=federation", "--fleet=172.18.100.100,lb.example.com:9991", "--fleet", "[::1]:1"];
        let expected = ["172.18.100.100:9990", "lb.example.com:9991", "[::1]:1"].map(String::from).to_vec();
        assert_eq!(fleets(&seeds), Ok(vec![("federation".into(), None, expected)]));
    }

    #[test]
    fn many_fleets_are_possible() {
        let args = [
            "--callsign=federation",
            "--callsign=a=b",
            "--fleet=a=b=h1,h2:1",
            "--fleet=federation=h3",
            "--name=a=b=third",
        ];
        assert_eq!(
            fleets(&args),
            Ok(vec![
                ("federation".into(), None, vec!["h3:9990".into()]),
                ("a=b".into(), Some("third".into()), vec!["h1:9990".into(), "h2:1".into()]),
            ])
        );
        // As in the environment.
        let args = ["--callsign=one two", "--fleet=one=h1 two=h2,h3"];
        let names: Vec<_> =
            fleets(&args).unwrap().into_iter().map(|(name, _, seeds)| (name, seeds.len())).collect();
        assert_eq!(names, [("one".into(), 1), ("two".into(), 2)]);
    }

    #[test]
    fn wrong_usage_is_refused_with_a_reason() {
        for (args, said) in [
            (&[][..], "--callsign <CALLSIGN>"),
            (&["--callsign=a", "--callsign=a"], "given twice"),
            (&["--callsign=a", "--callsign=b", "--fleet=h1"], "write CALLSIGN=HOST:PORT"),
            (&["--callsign=a", "--callsign=b", "--name=w"], "write CALLSIGN=NAME"),
            (&["--callsign=a", "--fleet=b=h1"], "there is no --callsign b"),
            (&["--callsign=a", "--name=v", "--name=w"], "both v and w"),
            (&["--callsign=a", "--name=V"], "lower-case"),
            (&["--callsign=a", "--fleet=h1:0"], "not a number from 1 to 65535"),
            (&["--callsign=a", "--fleet=h1,"], "address is empty"),
            (&["--callsign=a", "--listen=9990"], "write :PORT"),
            (&["--callsign=a", "--listen=0"], "members have to reach it"),
            (&["--callsign=a", "--beat-interval=1m"], "from 100ms to 10s"),
            (&["--callsign=a", "--silence-floor=0s"], "from 100ms to 10m"),
        ] {
            let error = fleets(args).unwrap_err();
            assert!(error.contains(said), "{args:?}: {error}");
        }
        let many = format!("--fleet={}", vec!["h"; 65].join(","));
        assert!(fleets(&["--callsign=a", &many]).unwrap_err().contains("more than 64 addresses"));
    }
}
