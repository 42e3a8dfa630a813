//! What a user's session actor can be asked, by chapter. Messages are data.
//!
//! Every chapter has its own module with its commands, its replies and an async `run(env, view, command)` that answers
//! the reply and, where something the view shows has changed, the new view. A session does one command at a time.

use crate::session::{account, backup, data, devices, friends, keys, to_device};

/// A command to one user's actor.
#[derive(Clone, Debug)]
pub enum SessionCommand {
    /// Registration, tokens, password, deactivation.
    Account(account::AccountCommand),
    /// Devices.
    Devices(devices::DeviceCommand),
    /// End-to-end keys.
    Keys(keys::KeyCommand),
    /// Room key backup.
    Backup(backup::BackupCommand),
    /// Send-to-device messages.
    ToDevice(to_device::ToDeviceCommand),
    /// Account data, push rules, filters, profile, presence.
    Data(data::DataCommand),
    /// Friends.
    Friends(friends::FriendCommand),
}

/// The answers, by the same chapters.
#[derive(Clone, Debug)]
pub enum SessionReply {
    /// See [`SessionCommand::Account`].
    Account(account::AccountReply),
    /// See [`SessionCommand::Devices`].
    Devices(devices::DeviceReply),
    /// See [`SessionCommand::Keys`].
    Keys(keys::KeyReply),
    /// See [`SessionCommand::Backup`].
    Backup(backup::BackupReply),
    /// See [`SessionCommand::ToDevice`].
    ToDevice(to_device::ToDeviceReply),
    /// See [`SessionCommand::Data`].
    Data(data::DataReply),
    /// See [`SessionCommand::Friends`].
    Friends(friends::FriendReply),
}
