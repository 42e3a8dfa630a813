use super::view::UserView;
use crate::env::Env;
use crate::error::Outcome;

#[derive(Clone, Debug)]
pub enum DeviceCommand {}

#[derive(Clone, Debug)]
pub enum DeviceReply {}

pub async fn run(_env: &Env, _view: &UserView, command: DeviceCommand) -> Outcome<(DeviceReply, Option<UserView>)> {
    match command {}
}
