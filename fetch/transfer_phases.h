// How long one HTTP request may take: each phase has its own time, so that a peer that sends a
// little now and then holds a connection no longer than one that sends nothing. Pure, with the time
// passed in; not thread-safe.
//
//   connecting    until the request can be sent; host name, TCP, TLS     connect
//   answer        until the answer's first byte                          silence
//   header        from there to the end of the headers, as a whole       header
//   body          no byte                                                silence
//                 too few bytes, by windows that follow each other       least rate / 16
//                 a body that is collected in memory, as a whole         30 s + 1 s each 16 KiB
//
// A body that leaves (a push) is measured by its silence alone. Who waits for an answer that is
// late asks a second time beside it (cache/filling_layer_fetch.cc): the first may still come.
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

  // What all requests share.
  struct Limits {
    // Bytes a second. A body slower than this is in nobody's way as long as nobody waits
    // (`slow`); one of less than a sixteenth is ended. 0 = no body is too slow.
    uint64_t least_rate = 1024;
    Milliseconds slow_window{10'000};
    Milliseconds end_window{20'000};
    Milliseconds header{15'000};
    Milliseconds collected{30'000};
    uint64_t collected_rate = 16 << 10;  // bytes a second
  };

  TransferPhases(const Limits& limits, Milliseconds connect, Milliseconds silence,
                 Clock::time_point now);

  void Connected(Clock::time_point now);
  void BytesLeft(Clock::time_point now);
  void HeaderBytes(Clock::time_point now);
  // `collected_bytes`: the most that a body collected in memory can have; nullopt = a sink's.
  void HeadersDone(std::optional<uint64_t> collected_bytes, Clock::time_point now);
  void BodyBytes(uint64_t count, Clock::time_point now);

  // A sink's body was below the least rate in the last slow window.
  bool slow() const { return slow_; }
  // No byte came or left in the last second.
  bool Silent(Clock::time_point now) const { return now - last_byte_ >= std::chrono::seconds(1); }

  struct Verdict {
    enum class Kind { kGoesOn, kSilent, kTooSlow };
    Kind kind = Kind::kGoesOn;
    std::string what;              // "has sent nothing for 20 s", after the host's name
    Clock::time_point look_again;  // of kGoesOn
  };
  // Closes the windows that are over.
  Verdict Check(Clock::time_point now);

 private:
  enum class Phase { kConnecting, kAnswer, kHeader, kBody };
  // Bytes in the window that `now` is in.
  struct Window {
    Clock::time_point begin;
    uint64_t bytes = 0;
  };
  Verdict CheckBody(Clock::time_point now);

  const Limits limits_;
  const Milliseconds connect_, silence_;
  Phase phase_ = Phase::kConnecting;
  Clock::time_point phase_began_, last_byte_;
  std::optional<Clock::time_point> body_deadline_;  // of a collected body
  Milliseconds body_time_{0};
  bool sink_ = false;
  Window slow_window_, end_window_;
  bool slow_ = false;
};

}  // namespace imagefs
