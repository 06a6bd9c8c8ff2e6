// SPDX-License-Identifier: Apache-2.0
// Time limits of one HTTP request. Each phase has its own limit, so that a peer that sends a little
// now and then cannot hold a connection longer than one that sends nothing. Pure, with the time
// passed in; not thread-safe.
//
//   connecting    until the request can be sent: host name, TCP, TLS     connect
//   answer        until the first byte of the response                   silence
//   header        from there to the end of the headers, in total         header
//   body          no byte                                                silence
//                 too few bytes, in consecutive windows                  least rate / 16
//                 a body buffered in memory, in total                    30 s + 1 s per 16 KiB
//
// An outgoing body (a push) is limited by silence only. A reader that waits for a late response
// sends a second request as a hedge (cache/filling_layer_fetch.cc); the first may still be
// answered.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

namespace imagefs {

class TransferPhases {
 public:
  using Clock = std::chrono::steady_clock;
  using Milliseconds = std::chrono::milliseconds;

  // Common to all requests.
  struct Limits {
    // Bytes per second. A body slower than this is tolerated as long as no request waits (`slow`);
    // below a sixteenth of it, it is aborted. 0 = no lower limit.
    uint64_t least_rate = 1024;
    Milliseconds slow_window{10'000};
    Milliseconds end_window{20'000};
    Milliseconds header{15'000};
    Milliseconds collected{30'000};
    uint64_t collected_rate = 16 << 10;  // bytes per second
  };

  TransferPhases(const Limits& limits, Milliseconds connect, Milliseconds silence,
                 Clock::time_point now);

  void Connected(Clock::time_point now);
  void BytesLeft(Clock::time_point now);
  void HeaderBytes(Clock::time_point now);
  // `collected_bytes`: the maximum size of a body buffered in memory; nullopt = the body goes to a
  // sink.
  void HeadersDone(std::optional<uint64_t> collected_bytes, Clock::time_point now);
  void BodyBytes(uint64_t count, Clock::time_point now);

  // Whether a sink's body was below the least rate in the last slow window.
  bool slow() const { return slow_; }
  // Whether no byte was received or sent in the last second.
  bool Silent(Clock::time_point now) const { return now - last_byte_ >= std::chrono::seconds(1); }

  struct Verdict {
    enum class Kind { kGoesOn, kSilent, kTooSlow };
    Kind kind = Kind::kGoesOn;
    std::string what;              // follows the host's name: "has sent nothing for 20 s"
    Clock::time_point look_again;  // for kGoesOn
  };
  // Closes elapsed windows.
  Verdict Check(Clock::time_point now);

 private:
  enum class Phase { kConnecting, kAnswer, kHeader, kBody };
  // Bytes received in the current window.
  struct Window {
    Clock::time_point begin;
    uint64_t bytes = 0;
  };
  Verdict CheckBody(Clock::time_point now);

  const Limits limits_;
  const Milliseconds connect_, silence_;
  Phase phase_ = Phase::kConnecting;
  Clock::time_point phase_began_, last_byte_;
  std::optional<Clock::time_point> body_deadline_;  // for a buffered body
  Milliseconds body_time_{0};
  bool sink_ = false;
  Window slow_window_, end_window_;
  bool slow_ = false;
};

}  // namespace imagefs
