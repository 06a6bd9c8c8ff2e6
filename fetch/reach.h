// Which addresses requests on a registry's account may be sent to. The user names a registry; where
// that leads (redirects, upload locations, token services) is the registry's word, and must not
// open this machine's own networks to it. Not thread-safe; pure but for what it remembers.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "fetch/ip_address.h"

namespace imagefs {

// A registry may lead to public addresses and to those of the class of its own address: loopback to
// loopback, private to private. `allow` adds to that, except for metadata services and reserved
// addresses, which nothing leads to.
//
// The registry's own name may be at any address that is not one of those, but does not move: once a
// request went to an address of one class, the name is refused at another class that it could not
// lead to, until it was not used for kHold. So a name server that changes its answer opens nothing.
class Reach {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::minutes kHold{10};

  explicit Reach(std::vector<IpPrefix> allow) : allow_(std::move(allow)) {}

  // Hosts are those of Url: lower case, IPv6 in brackets, without a port.
  struct Target {
    std::string registry;  // on whose account
    std::string host;      // of the URL
  };
  // Whether a connection to `address` may be used for `target`. kFailedPrecondition with the host,
  // the kind of address and the remedy.
  absl::Status Check(const Target& target, const IpAddress& address, Clock::time_point now) const;
  // The same where a proxy connects, by the name alone: what is an address, or known to be one.
  absl::Status CheckName(const Target& target) const;
  // A request for `target` is sent to `address`.
  void Sent(const Target& target, const IpAddress& address, Clock::time_point now);

 private:
  struct Seen {
    AddressClass address_class = AddressClass::kPublic;
    Clock::time_point last;
  };
  AddressClass ClassOfRegistry(const std::string& registry) const;
  bool Allowed(const IpAddress& address) const;
  void MakeRoom();

  const std::vector<IpPrefix> allow_;
  absl::flat_hash_map<std::string, Seen> seen_;  // by registry
};

}  // namespace imagefs
