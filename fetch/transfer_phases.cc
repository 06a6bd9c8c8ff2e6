// SPDX-License-Identifier: Apache-2.0
#include "fetch/transfer_phases.h"

#include <algorithm>

#include "base/text.h"

namespace imagefs {
namespace {

using Milliseconds = TransferPhases::Milliseconds;
using Verdict = TransferPhases::Verdict;

// Fraction of the least rate below which a body is aborted even if no request waits.
constexpr uint64_t kEndFraction = 16;

// Formats "20 s", "1.5 s".
std::string Seconds(Milliseconds time) {
  const int64_t tenths = time.count() / 100;
  if (tenths % 10 == 0) return StrCat(tenths / 10, " s");
  return StrCat(tenths / 10, ".", tenths % 10, " s");
}

Milliseconds Since(TransferPhases::Clock::time_point begin, TransferPhases::Clock::time_point now) {
  return std::chrono::duration_cast<Milliseconds>(now - begin);
}

// Whether `bytes` in `time` is below `rate` bytes per second.
bool Below(uint64_t bytes, Milliseconds time, uint64_t rate) {
  return static_cast<double>(bytes) * 1000.0 <
         static_cast<double>(rate) * static_cast<double>(time.count());
}

}  // namespace

TransferPhases::TransferPhases(const Limits& limits, Milliseconds connect, Milliseconds silence,
                               Clock::time_point now)
    : limits_(limits), connect_(connect), silence_(silence), phase_began_(now), last_byte_(now) {}

void TransferPhases::Connected(Clock::time_point now) {
  if (phase_ != Phase::kConnecting) return;
  phase_ = Phase::kAnswer;
  phase_began_ = last_byte_ = now;
}

void TransferPhases::BytesLeft(Clock::time_point now) {
  if (phase_ != Phase::kAnswer) return;
  phase_began_ = last_byte_ = now;
}

void TransferPhases::HeaderBytes(Clock::time_point now) {
  last_byte_ = now;
  if (phase_ != Phase::kConnecting && phase_ != Phase::kAnswer) return;
  phase_ = Phase::kHeader;
  phase_began_ = now;
}

void TransferPhases::HeadersDone(std::optional<uint64_t> collected_bytes, Clock::time_point now) {
  phase_ = Phase::kBody;
  phase_began_ = last_byte_ = now;
  slow_window_ = end_window_ = {now, 0};
  sink_ = !collected_bytes;
  if (!collected_bytes) return;
  body_time_ = limits_.collected + Milliseconds(*collected_bytes * 1000 / limits_.collected_rate);
  body_deadline_ = now + body_time_;
}

void TransferPhases::BodyBytes(uint64_t count, Clock::time_point now) {
  last_byte_ = now;
  slow_window_.bytes += count;
  end_window_.bytes += count;
}

Verdict TransferPhases::Check(Clock::time_point now) {
  if (phase_ == Phase::kConnecting) {
    const Clock::time_point deadline = phase_began_ + connect_;
    if (now < deadline) return {Verdict::Kind::kGoesOn, "", deadline};
    return {
        Verdict::Kind::kSilent, StrCat("could not be connected to within ", Seconds(connect_)), {}};
  }
  if (phase_ == Phase::kHeader) {
    const Clock::time_point deadline = phase_began_ + limits_.header;
    if (now < deadline) return {Verdict::Kind::kGoesOn, "", deadline};
    return {Verdict::Kind::kTooSlow,
            StrCat("has not completed the headers of its answer after ", Seconds(limits_.header)),
            {}};
  }
  const Clock::time_point silent_at = last_byte_ + silence_;
  if (now >= silent_at) {
    return {Verdict::Kind::kSilent, StrCat("has sent nothing for ", Seconds(silence_)), {}};
  }
  if (phase_ == Phase::kAnswer) return {Verdict::Kind::kGoesOn, "", silent_at};
  Verdict verdict = CheckBody(now);
  verdict.look_again = std::min(verdict.look_again, silent_at);
  return verdict;
}

Verdict TransferPhases::CheckBody(Clock::time_point now) {
  if (body_deadline_ && now >= *body_deadline_) {
    return {Verdict::Kind::kTooSlow,
            StrCat("has not sent the whole of a small answer within ", Seconds(body_time_)),
            {}};
  }
  if (const Milliseconds time = Since(slow_window_.begin, now); time >= limits_.slow_window) {
    slow_ = sink_ && Below(slow_window_.bytes, time, limits_.least_rate);
    slow_window_ = {now, 0};
  }
  if (const Milliseconds time = Since(end_window_.begin, now); time >= limits_.end_window) {
    if (Below(end_window_.bytes, time, limits_.least_rate / kEndFraction)) {
      return {Verdict::Kind::kTooSlow,
              StrCat("has sent ", end_window_.bytes, " bytes in ", Seconds(time),
                     ", less than the least rate of ", limits_.least_rate / kEndFraction,
                     " bytes a second"),
              {}};
    }
    end_window_ = {now, 0};
  }
  Clock::time_point next =
      std::min(slow_window_.begin + limits_.slow_window, end_window_.begin + limits_.end_window);
  if (body_deadline_) next = std::min(next, *body_deadline_);
  return {Verdict::Kind::kGoesOn, "", next};
}

}  // namespace imagefs
