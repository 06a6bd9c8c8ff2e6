// SPDX-License-Identifier: Apache-2.0
#include "fetch/ip_address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "base/text.h"

namespace imagefs {
namespace {

constexpr int kIpv4Bits = 32;
constexpr int kAllBits = 128;

struct Row {
  const char* prefix;
  AddressClass address_class;
};

// The first row that contains the address decides; an address in no row is public.
constexpr Row kRows[] = {
    {"169.254.169.254", AddressClass::kMetadata},  // AWS, Azure, Google and most others
    {"169.254.170.2", AddressClass::kMetadata},    // AWS, for tasks
    {"169.254.170.23", AddressClass::kMetadata},   // AWS, for pods
    {"fd00:ec2::254", AddressClass::kMetadata},    // AWS
    {"fd00:ec2::23", AddressClass::kMetadata},     // AWS, for pods
    {"fd20:ce::254", AddressClass::kMetadata},     // Google
    {"100.100.100.200", AddressClass::kMetadata},  // Alibaba
    {"168.63.129.16", AddressClass::kMetadata},    // Azure
    {"192.0.0.192", AddressClass::kMetadata},      // Oracle
    {"169.254.0.23", AddressClass::kMetadata},     // Tencent
    {"169.254.42.42", AddressClass::kMetadata},    // Scaleway
    {"fd00:42::42", AddressClass::kMetadata},      // Scaleway
    {"0.0.0.0", AddressClass::kLoopback},
    {"127.0.0.0/8", AddressClass::kLoopback},
    {"::", AddressClass::kLoopback},
    {"::1", AddressClass::kLoopback},
    {"169.254.0.0/16", AddressClass::kLinkLocal},
    {"fe80::/10", AddressClass::kLinkLocal},
    {"10.0.0.0/8", AddressClass::kPrivate},
    {"172.16.0.0/12", AddressClass::kPrivate},
    {"192.168.0.0/16", AddressClass::kPrivate},
    {"100.64.0.0/10", AddressClass::kPrivate},
    {"192.0.0.0/24", AddressClass::kPrivate},
    {"198.18.0.0/15", AddressClass::kPrivate},
    {"fc00::/7", AddressClass::kPrivate},
    {"fec0::/10", AddressClass::kPrivate},
    {"64:ff9b:1::/48", AddressClass::kPrivate},
    {"0.0.0.0/8", AddressClass::kReserved},
    {"224.0.0.0/3", AddressClass::kReserved},
    {"100::/64", AddressClass::kReserved},
    {"ff00::/8", AddressClass::kReserved},
};

struct ClassRange {
  IpPrefix prefix;
  AddressClass address_class;
};

const std::vector<ClassRange>& ClassRanges() {
  static const std::vector<ClassRange> ranges = [] {
    std::vector<ClassRange> parsed;
    for (const Row& row : kRows)
      parsed.push_back({*IpPrefix::Parse(row.prefix), row.address_class});
    return parsed;
  }();
  return ranges;
}

bool StartsWith(const std::array<uint8_t, 16>& bytes, std::initializer_list<uint8_t> head) {
  return std::equal(head.begin(), head.end(), bytes.begin());
}

}  // namespace

std::string_view Describe(AddressClass address_class) {
  switch (address_class) {
    case AddressClass::kPublic:
      return "a public address";
    case AddressClass::kPrivate:
      return "a private address";
    case AddressClass::kLinkLocal:
      return "a link-local address";
    case AddressClass::kLoopback:
      return "a loopback address";
    case AddressClass::kMetadata:
      return "the address of a cloud's metadata service";
    case AddressClass::kReserved:
      return "a multicast or reserved address";
  }
  return "an unknown address";
}

IpAddress IpAddress::FromIpv4(const uint8_t* bytes) {
  std::array<uint8_t, 16> all = {};
  all[10] = all[11] = 0xff;
  std::copy(bytes, bytes + 4, all.begin() + 12);
  return IpAddress(all);
}

std::optional<IpAddress> IpAddress::Parse(std::string_view text) {
  if (text.starts_with('[') && text.ends_with(']')) {
    text = text.substr(1, text.size() - 2);
    if (text.find(':') == std::string_view::npos) return std::nullopt;
  }
  // Drop the zone of a link-local address, which names the interface.
  if (text.find(':') != std::string_view::npos) text = text.substr(0, text.find('%'));
  const std::string zero_ended(text);
  std::array<uint8_t, 16> bytes;
  if (inet_pton(AF_INET6, zero_ended.c_str(), bytes.data()) == 1) return IpAddress(bytes);
  if (inet_pton(AF_INET, zero_ended.c_str(), bytes.data()) == 1) return FromIpv4(bytes.data());
  return std::nullopt;
}

std::optional<IpAddress> IpAddress::Of(const sockaddr* address) {
  if (address->sa_family == AF_INET) {
    sockaddr_in in;
    std::memcpy(&in, address, sizeof(in));
    return FromIpv4(reinterpret_cast<const uint8_t*>(&in.sin_addr));
  }
  if (address->sa_family != AF_INET6) return std::nullopt;
  sockaddr_in6 in6;
  std::memcpy(&in6, address, sizeof(in6));
  std::array<uint8_t, 16> bytes;
  std::memcpy(bytes.data(), &in6.sin6_addr, bytes.size());
  return IpAddress(bytes);
}

bool IpAddress::IsIpv4() const {
  return StartsWith(bytes_, {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff});
}

std::string IpAddress::ToString() const {
  char text[INET6_ADDRSTRLEN] = {};
  if (IsIpv4()) {
    inet_ntop(AF_INET, bytes_.data() + 12, text, sizeof(text));
  } else {
    inet_ntop(AF_INET6, bytes_.data(), text, sizeof(text));
  }
  return text;
}

AddressClass IpAddress::OwnClass() const {
  for (const ClassRange& range : ClassRanges()) {
    if (range.prefix.Contains(*this)) return range.address_class;
  }
  return AddressClass::kPublic;
}

std::vector<IpAddress> IpAddress::Carried() const {
  std::vector<IpAddress> carried;
  if (IsIpv4()) return carried;
  const uint8_t* const last = bytes_.data() + 12;
  const bool compatible = StartsWith(bytes_, {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}) &&
                          (last[0] | last[1] | last[2]) != 0;
  const bool isatap =
      (bytes_[8] & 0xfd) == 0 && bytes_[9] == 0 && bytes_[10] == 0x5e && bytes_[11] == 0xfe;
  if (compatible || isatap || StartsWith(bytes_, {0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0}) ||
      StartsWith(bytes_, {0, 0x64, 0xff, 0x9b})) {
    carried.push_back(FromIpv4(last));
  }
  if (StartsWith(bytes_, {0x20, 0x02})) carried.push_back(FromIpv4(bytes_.data() + 2));
  if (StartsWith(bytes_, {0x20, 0x01, 0, 0})) {
    std::array<uint8_t, 4> client;
    std::transform(last, last + 4, client.begin(),
                   [](uint8_t byte) { return static_cast<uint8_t>(~byte); });
    carried.push_back(FromIpv4(client.data()));
    carried.push_back(FromIpv4(bytes_.data() + 4));
  }
  return carried;
}

AddressClass IpAddress::Class() const {
  AddressClass found = OwnClass();
  for (const IpAddress& address : Carried()) found = std::max(found, address.OwnClass());
  return found;
}

std::optional<IpPrefix> IpPrefix::Parse(std::string_view text) {
  const size_t slash = text.find('/');
  const std::optional<IpAddress> address = IpAddress::Parse(text.substr(0, slash));
  if (!address || text.find('%') != std::string_view::npos) return std::nullopt;
  const bool ipv4 = text.find(':') == std::string_view::npos;
  const int most = ipv4 ? kIpv4Bits : kAllBits;
  uint64_t bits = static_cast<uint64_t>(most);
  if (slash != std::string_view::npos) {
    const std::optional<uint64_t> given = ParseDecimal(text.substr(slash + 1));
    if (!given || *given > static_cast<uint64_t>(most)) return std::nullopt;
    bits = *given;
  }
  return IpPrefix(*address, static_cast<int>(bits) + (kAllBits - most));
}

bool IpPrefix::ContainsItself(const IpAddress& address) const {
  const size_t whole = static_cast<size_t>(bits_) / 8;
  if (!std::equal(address_.bytes_.begin(), address_.bytes_.begin() + static_cast<long>(whole),
                  address.bytes_.begin())) {
    return false;
  }
  const int rest = bits_ % 8;
  if (rest == 0) return true;
  const int shift = 8 - rest;
  return (address_.bytes_[whole] >> shift) == (address.bytes_[whole] >> shift);
}

bool IpPrefix::Contains(const IpAddress& address) const {
  if (ContainsItself(address)) return true;
  const std::vector<IpAddress> carried = address.Carried();
  return std::any_of(carried.begin(), carried.end(),
                     [this](const IpAddress& one) { return ContainsItself(one); });
}

}  // namespace imagefs
