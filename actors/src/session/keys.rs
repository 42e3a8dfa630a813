use super::view::UserView;
use crate::env::Env;
use crate::error::Outcome;

#[derive(Clone, Debug)]
pub enum KeyCommand {}

#[derive(Clone, Debug)]
pub enum KeyReply {}

pub async fn run(_env: &Env, _view: &UserView, command: KeyCommand) -> Outcome<(KeyReply, Option<UserView>)> {
    match command {}
}
