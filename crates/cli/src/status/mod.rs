//! `flagship status`: asks all clusters at once, and shows what is known even if some do not answer.

mod table;
#[cfg(test)]
mod tests;
pub(crate) mod view;
mod watch;

use futures::future::join_all;
use jiff::Timestamp;

use crate::args::{Output, StatusArgs};
use crate::cluster::{Connection, Member, connect};
use crate::exit::{Exit, Stop};
use crate::out::print;
use crate::style::Style;
use view::{Answer, StatusView};

pub(crate) async fn run(args: &StatusArgs) -> Result<Exit, Stop> {
    let connections = connect(&args.clusters).await;
    if args.watch {
        return watch::run(args, &connections).await;
    }
    let view = StatusView::new(&ask(&connections).await, Timestamp::now());
    print(&text(&view, args.output, Style::detect())?)?;
    Ok(exit(&view))
}

pub(crate) async fn ask(connections: &[Connection]) -> Vec<Answer> {
    let answers = connections.iter().map(async |(context, cluster)| {
        let (kubectl, members) = match cluster {
            Ok(cluster) => {
                (cluster.kubectl.clone(), cluster.members().await.map_err(|error| error.to_string()))
            }
            Err(error) => (String::new(), Err(error.to_string())),
        };
        let pair = |member: Member| (member.object, member.lease.renewal);
        let objects = members.map(|members| members.into_iter().map(pair).collect());
        Answer { context: context.clone(), kubectl, objects }
    });
    join_all(answers).await
}

fn text(view: &StatusView, output: Output, style: Style) -> Result<String, Stop> {
    let broken =
        |error: &dyn std::fmt::Display| Stop::failure(format!("the status cannot be written: {error}"));
    match output {
        Output::Table => Ok(table::render(view, Timestamp::now(), false, style)),
        Output::Wide => Ok(table::render(view, Timestamp::now(), true, style)),
        Output::Json => {
            serde_json::to_string_pretty(view).map(|text| text + "\n").map_err(|error| broken(&error))
        }
        Output::Yaml => serde_saphyr::to_string(view).map_err(|error| broken(&error)),
    }
}

fn exit(view: &StatusView) -> Exit {
    match (view.unreachable.is_empty(), view.fleets.is_empty()) {
        (false, _) => Exit::Unreachable,
        (true, true) => Exit::NotFound,
        (true, false) => Exit::Success,
    }
}
