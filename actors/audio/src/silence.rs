//! Shortening pauses, a block at a time.

use std::collections::VecDeque;

use crate::Spec;

/// Frames are this long.
const FRAME_MS: u32 = 20;
/// What is kept of a pause: so many frames where it begins and where it ends. Shorter pauses stay as they are.
const KEPT_BEFORE: usize = 15;
const KEPT_AFTER: usize = 10;
/// A frame this much quieter than the whole is silent, dB, within these bounds, dBFS.
const BELOW: f64 = 25.0;
const QUIETEST: f64 = -70.0;
const LOUDEST: f64 = -40.0;

/// Lets sound through and shortens what is between. At the beginning and the end it leaves as much as before and after a sound.
pub(crate) struct Gate {
    frame: usize,
    /// Mean square of a sample.
    threshold: f64,
    waiting: Vec<f32>,
    /// Silent frames at the end of what came in that went out already.
    passed: usize,
    heard: bool,
    /// Silent frames that go out only if sound follows.
    held: VecDeque<Vec<f32>>,
    /// The frame that would follow what went out, if frames were left out after it.
    gap: Option<Vec<f32>>,
}

impl Gate {
    /// `loudness_lufs`: of the whole.
    pub(crate) fn new(spec: Spec, loudness_lufs: f64) -> Self {
        let decibels = (loudness_lufs - BELOW).clamp(QUIETEST, LOUDEST);
        Self {
            frame: (spec.rate * FRAME_MS / 1_000) as usize * spec.channels,
            threshold: 10_f64.powf(decibels / 10.0),
            waiting: Vec::new(),
            passed: 0,
            heard: false,
            held: VecDeque::new(),
            gap: None,
        }
    }

    /// Replaces a block by what may pass now.
    pub(crate) fn pass(&mut self, block: &mut Vec<f32>) {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.append(block);
        let whole = waiting.len() / self.frame * self.frame;
        for frame in waiting[..whole].chunks_exact(self.frame) {
            self.frame(frame, block);
        }
        waiting.drain(..whole);
        self.waiting = waiting;
    }

    /// What passes at the end.
    pub(crate) fn finish(&mut self, out: &mut Vec<f32>) {
        let rest = std::mem::take(&mut self.waiting);
        if !rest.is_empty() {
            self.frame(&rest, out);
        }
    }

    fn frame(&mut self, frame: &[f32], out: &mut Vec<f32>) {
        let energy: f64 = frame.iter().map(|sample| f64::from(*sample).powi(2)).sum();
        if energy / frame.len() as f64 >= self.threshold {
            self.open(out);
            out.extend_from_slice(frame);
        } else if self.heard && self.passed < KEPT_BEFORE {
            self.passed += 1;
            out.extend_from_slice(frame);
        } else {
            self.held.push_back(frame.to_vec());
            if self.held.len() > KEPT_AFTER {
                let left_out = self.held.pop_front();
                self.gap = self.gap.take().or(left_out);
            }
        }
    }

    /// Sound follows: what is held goes out, without a click where frames are missing.
    fn open(&mut self, out: &mut Vec<f32>) {
        if let (Some(gap), Some(first)) = (self.gap.take(), self.held.front_mut()) {
            // At the very beginning nothing went out that it could follow: it comes up from nothing.
            let before = if self.heard { gap } else { vec![0.0; first.len()] };
            let steps = first.len() as f32;
            for (at, (new, old)) in first.iter_mut().zip(&before).enumerate() {
                let share = at as f32 / steps;
                *new = *new * share + old * (1.0 - share);
            }
        }
        out.extend(self.held.drain(..).flatten());
        self.heard = true;
        self.passed = 0;
    }
}
