use super::view::UserView;
use crate::env::Env;
use crate::error::Outcome;

#[derive(Clone, Debug)]
pub enum AccountCommand {}

#[derive(Clone, Debug)]
pub enum AccountReply {}

pub async fn run(_env: &Env, _view: &UserView, command: AccountCommand) -> Outcome<(AccountReply, Option<UserView>)> {
    match command {}
}
