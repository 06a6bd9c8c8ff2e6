// SPDX-License-Identifier: Apache-2.0
// IPv4 and IPv6 addresses, ranges of them, and their classification. Value types; pure functions.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

struct sockaddr;

namespace imagefs {

// The kind of network that an address belongs to, from IANA's special-purpose registries (RFC 6890)
// and the documentation of cloud providers.
enum class AddressClass {
  kPublic,
  kPrivate,    // 10/8, 172.16/12, 192.168/16, 100.64/10, fc00::/7 and the like
  kLinkLocal,  // 169.254/16, fe80::/10
  kLoopback,   // 127/8, ::1, and the unspecified address, which connects to this machine
  kMetadata,   // cloud metadata services, which hand out the machine's identity
  kReserved,   // multicast, broadcast and unassigned
};
// For example, "a private address".
std::string_view Describe(AddressClass address_class);

class IpAddress {
 public:
  // Accepts "192.0.2.1" and "2001:db8::1", the latter also in brackets; no names.
  static std::optional<IpAddress> Parse(std::string_view text);
  static std::optional<IpAddress> Of(const sockaddr* address);

  // An address that embeds an IPv4 address (mapped, compatible, NAT64, 6to4, Teredo, ISATAP) has
  // the class of the embedded one, if that is not public.
  AddressClass Class() const;
  std::string ToString() const;

  bool operator==(const IpAddress&) const = default;

 private:
  friend class IpPrefix;
  explicit IpAddress(std::array<uint8_t, 16> bytes) : bytes_(bytes) {}
  static IpAddress FromIpv4(const uint8_t* bytes);
  bool IsIpv4() const;
  AddressClass OwnClass() const;
  std::vector<IpAddress> Carried() const;

  std::array<uint8_t, 16> bytes_;  // IPv4 as ::ffff:a.b.c.d
};

// A range such as "10.0.0.0/8"; a single address is a range of one.
class IpPrefix {
 public:
  static std::optional<IpPrefix> Parse(std::string_view text);
  // Also true if the address embeds an IPv4 address in the range.
  bool Contains(const IpAddress& address) const;

 private:
  IpPrefix(IpAddress address, int bits) : address_(address), bits_(bits) {}
  bool ContainsItself(const IpAddress& address) const;
  IpAddress address_;
  int bits_;  // out of 128
};

}  // namespace imagefs
