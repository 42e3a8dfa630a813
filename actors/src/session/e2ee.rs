//! Typed ways to ask sessions about end-to-end keys, backups and messages.

use std::collections::BTreeMap;

use ruma::{OwnedDeviceId, OwnedUserId, UserId};
use serde_json::value::RawValue;

use super::backup::{BackupCommand, BackupReply};
use super::commands::{SessionCommand, SessionReply};
use super::handle::{Sessions, mixed_up};
use super::keys::{Claimed, CrossSigningUpload, Dehydrate, Failures, KeyCommand, KeyReply, Upload};
use super::to_device::{Delivery, Messages, ToDeviceCommand};
use crate::error::Outcome;

impl Sessions {
    async fn keys(&self, user: &UserId, command: KeyCommand) -> Outcome<KeyReply> {
        match self.ask(user, SessionCommand::Keys(command)).await? {
            SessionReply::Keys(reply) => Ok(reply),
            _ => Err(mixed_up()),
        }
    }

    /// Publishes keys of a device; tells how many one-time keys it has, by algorithm.
    ///
    /// # Errors
    /// `M_INVALID_PARAM`, `M_BAD_JSON` and `M_TOO_LARGE` for keys that cannot be taken, `M_UNKNOWN` when a one-time key's
    /// name is that of another key.
    pub async fn upload_keys(&self, user: &UserId, upload: Upload) -> Outcome<BTreeMap<String, u64>> {
        match self.keys(user, KeyCommand::Upload(Box::new(upload))).await? {
            KeyReply::Counts(counts) => Ok(counts),
            _ => Err(mixed_up()),
        }
    }

    /// Takes a key of each of the user's devices named, where there is one.
    ///
    /// # Errors
    /// `M_NOT_FOUND` for unknown users.
    pub async fn claim_keys(&self, user: &UserId, wanted: Vec<(OwnedDeviceId, String)>) -> Outcome<Claimed> {
        match self.keys(user, KeyCommand::Claim { wanted }).await? {
            KeyReply::Claimed(claimed) => Ok(claimed),
            _ => Err(mixed_up()),
        }
    }

    /// Takes several keys of each of the user's devices named: device, algorithm and number; fallback keys beside them (MSC3983).
    ///
    /// # Errors
    /// `M_NOT_FOUND` for unknown users.
    pub async fn claim_several(&self, user: &UserId, wanted: Vec<(OwnedDeviceId, String, u32)>) -> Outcome<Claimed> {
        match self.keys(user, KeyCommand::ClaimSeveral { wanted }).await? {
            KeyReply::Claimed(claimed) => Ok(claimed),
            _ => Err(mixed_up()),
        }
    }

    /// Publishes cross-signing keys.
    ///
    /// # Errors
    /// `M_INVALID_PARAM`, `M_BAD_JSON`, `M_MISSING_PARAM`, `M_INVALID_SIGNATURE`, `M_FORBIDDEN`.
    pub async fn upload_cross_signing(&self, user: &UserId, upload: CrossSigningUpload) -> Outcome<()> {
        self.keys(user, KeyCommand::CrossSigning(Box::new(upload)))
            .await
            .map(|_| ())
    }

    /// Makes a device without a session, in place of the former one (MSC3814).
    ///
    /// # Errors
    /// As [`Sessions::upload_keys`]; `M_INVALID_PARAM` when the device id is in use.
    pub async fn dehydrate(&self, user: &UserId, new: Dehydrate) -> Outcome<()> {
        self.keys(user, KeyCommand::Dehydrate(Box::new(new))).await.map(|_| ())
    }

    /// Publishes the user's signatures; tells which were refused.
    ///
    /// # Errors
    /// `M_TOO_LARGE` for too many at once.
    pub async fn upload_signatures(
        &self,
        user: &UserId,
        signed: BTreeMap<OwnedUserId, BTreeMap<String, Box<RawValue>>>,
    ) -> Outcome<Failures> {
        match self.keys(user, KeyCommand::Signatures(signed)).await? {
            KeyReply::Failures(failures) => Ok(failures),
            _ => Err(mixed_up()),
        }
    }

    /// Does something to the user's key backup.
    ///
    /// # Errors
    /// See [`super::backup::run`].
    pub async fn backup(&self, user: &UserId, command: BackupCommand) -> Outcome<BackupReply> {
        match self.ask(user, SessionCommand::Backup(command)).await? {
            SessionReply::Backup(reply) => Ok(reply),
            _ => Err(mixed_up()),
        }
    }

    /// Sends messages from a device of the user; a repeated transaction id changes nothing.
    ///
    /// # Errors
    /// See [`super::to_device::run`].
    pub async fn send_to_device(&self, user: &UserId, messages: Messages) -> Outcome<()> {
        let command = ToDeviceCommand::Send(Box::new(messages));
        self.ask(user, SessionCommand::ToDevice(command)).await.map(|_| ())
    }

    /// Puts what another server's user sends into the inboxes of the user's devices; a repeated message changes nothing.
    ///
    /// # Errors
    /// `M_NOT_FOUND` for unknown users; `M_BAD_JSON`, `M_INVALID_PARAM`, `M_TOO_LARGE` for what cannot be delivered.
    pub async fn deliver(&self, user: &UserId, delivery: Delivery) -> Outcome<()> {
        let command = ToDeviceCommand::Deliver(Box::new(delivery));
        self.ask(user, SessionCommand::ToDevice(command)).await.map(|_| ())
    }
}
