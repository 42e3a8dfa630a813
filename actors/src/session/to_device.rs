use super::view::UserView;
use crate::env::Env;
use crate::error::Outcome;

#[derive(Clone, Debug)]
pub enum ToDeviceCommand {}

#[derive(Clone, Debug)]
pub enum ToDeviceReply {}

pub async fn run(_env: &Env, _view: &UserView, command: ToDeviceCommand) -> Outcome<(ToDeviceReply, Option<UserView>)> {
    match command {}
}
