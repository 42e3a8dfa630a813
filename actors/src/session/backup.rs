use super::view::UserView;
use crate::env::Env;
use crate::error::Outcome;

#[derive(Clone, Debug)]
pub enum BackupCommand {}

#[derive(Clone, Debug)]
pub enum BackupReply {}

pub async fn run(_env: &Env, _view: &UserView, command: BackupCommand) -> Outcome<(BackupReply, Option<UserView>)> {
    match command {}
}
