//! The 64 bits that a completion carries back: one type, one encode, one decode.
//!
//! Layout, from the top: kind (8 bits), generation or lane (16), slot (16), tag (16), 8 bits spare;
//! a channel's own word takes the place of slot and tag.

use crate::block::Tag;

/// Which bio an image operation belongs to, as its queue thread counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IoKey {
    /// The thread's slot of the queue (not the device's queue number).
    pub slot: u16,
    /// The head.
    pub tag: Tag,
    /// Bumped whenever the head is claimed: a completion with another generation is stale (I36).
    pub generation: u16,
}

/// What a completion is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// An image operation whose buffers are the bio's own.
    Io(IoKey),
    /// An operation that only a channel can interpret (bounce buffers, side operations).
    Channel {
        /// The thread's number of the channel.
        lane: u16,
        /// The channel's own word for the operation.
        op: u32,
    },
    /// The guest kicked the queue in this slot; the generation tells an old kick from a new one.
    Kick {
        /// The thread's slot of the queue.
        slot: u16,
        /// Which start of that slot the poll belongs to.
        generation: u16,
    },
    /// The mailbox's eventfd fired.
    Mailbox,
    /// The completion of a cancellation or another operation whose result nobody needs.
    Ignore,
}

const IO: u64 = 1;
const CHANNEL: u64 = 2;
const KICK: u64 = 3;
const MAILBOX: u64 = 4;
const IGNORE: u64 = 5;

const fn pack(kind: u64, generation: u16, slot: u16, tag: u16) -> u64 {
    kind << 56 | (generation as u64) << 40 | (slot as u64) << 24 | (tag as u64) << 8
}

#[allow(clippy::cast_possible_truncation, reason = "each field is cut to its own width")]
const fn field(raw: u64, shift: u32) -> u16 {
    (raw >> shift) as u16
}

impl Token {
    /// The token as the kernel carries it.
    #[must_use]
    pub const fn encode(self) -> u64 {
        match self {
            Token::Io(k) => pack(IO, k.generation, k.slot, k.tag.0),
            Token::Channel { lane, op } => CHANNEL << 56 | (lane as u64) << 40 | (op as u64) << 8,
            Token::Kick { slot, generation } => pack(KICK, generation, slot, 0),
            Token::Mailbox => MAILBOX << 56,
            Token::Ignore => IGNORE << 56,
        }
    }

    /// The token that was encoded as `raw`; `None` for what no token encodes to.
    #[must_use]
    pub const fn decode(raw: u64) -> Option<Token> {
        let slot = field(raw, 24);
        let generation = field(raw, 40);
        Some(match raw >> 56 {
            IO => Token::Io(IoKey { slot, tag: Tag(field(raw, 8)), generation }),
            #[allow(clippy::cast_possible_truncation, reason = "the field is 32 bits wide")]
            CHANNEL => Token::Channel { lane: generation, op: (raw >> 8) as u32 },
            KICK => Token::Kick { slot, generation },
            MAILBOX => Token::Mailbox,
            IGNORE => Token::Ignore,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_token_comes_back(slot: u16, tag: u16, generation: u16, n: u32) {
            for t in [
                Token::Io(IoKey { slot, tag: Tag(tag), generation }),
                Token::Channel { lane: slot, op: n },
                Token::Kick { slot, generation },
                Token::Mailbox,
                Token::Ignore,
            ] {
                prop_assert_eq!(Token::decode(t.encode()), Some(t));
            }
        }
    }

    #[test]
    fn what_nobody_sent_is_refused() {
        assert_eq!(Token::decode(0), None);
        assert_eq!(Token::decode(u64::MAX), None);
    }
}
