use super::view::UserView;
use crate::env::Env;
use crate::error::Outcome;

#[derive(Clone, Debug)]
pub enum DataCommand {}

#[derive(Clone, Debug)]
pub enum DataReply {}

pub async fn run(_env: &Env, _view: &UserView, command: DataCommand) -> Outcome<(DataReply, Option<UserView>)> {
    match command {}
}
