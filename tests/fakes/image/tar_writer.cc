// SPDX-License-Identifier: Apache-2.0
#include "tests/fakes/image/tar_writer.h"

#include <algorithm>
#include <cstring>

namespace imagefs {
namespace {

constexpr size_t kBlock = 512;

void PutText(std::string& block, size_t at, size_t size, std::string_view text) {
  std::memcpy(block.data() + at, text.data(), std::min(size, text.size()));
}

// NUL-terminated octal, or base-256 if that does not fit.
void PutNumber(std::string& block, size_t at, size_t size, int64_t value) {
  if (value >= 0 && (3 * (size - 1) >= 63 || value < int64_t{1} << (3 * (size - 1)))) {
    for (size_t i = size - 1; i-- > 0; value /= 8) {
      block[at + i] = static_cast<char>('0' + value % 8);
    }
    return;
  }
  for (size_t i = size; i-- > 0; value >>= 8) block[at + i] = static_cast<char>(value & 0xff);
  block[at] = static_cast<char>(static_cast<unsigned char>(block[at]) | 0x80);
}

std::string Padded(std::string_view data) {
  std::string padded(data);
  padded.resize((data.size() + kBlock - 1) / kBlock * kBlock, '\0');
  return padded;
}

}  // namespace

void TarWriter::SetChecksum(std::string& block) {
  std::fill_n(block.begin() + 148, 8, ' ');
  uint32_t sum = 0;
  for (char c : block) sum += static_cast<unsigned char>(c);
  PutNumber(block, 148, 7, sum);
  block[154] = '\0';
}

std::string TarWriter::Block(const Header& header) {
  std::string block(kBlock, '\0');
  PutText(block, 0, 100, header.name);
  PutNumber(block, 100, 8, header.mode);
  PutNumber(block, 108, 8, header.uid);
  PutNumber(block, 116, 8, header.gid);
  PutNumber(block, 124, 12, header.size);
  PutNumber(block, 136, 12, header.mtime);
  block[156] = header.type;
  PutText(block, 157, 100, header.link);
  if (header.format == Format::kUstar) PutText(block, 257, 8, std::string_view("ustar\00000", 8));
  if (header.format == Format::kGnu) PutText(block, 257, 8, std::string_view("ustar  \0", 8));
  if (header.format != Format::kV7) {
    PutNumber(block, 329, 8, header.major);
    PutNumber(block, 337, 8, header.minor);
    PutText(block, 345, 155, header.prefix);
  }
  SetChecksum(block);
  return block;
}

std::string TarWriter::PaxBody(const Records& records) {
  std::string body;
  for (const auto& [key, value] : records) {
    const size_t rest = key.size() + value.size() + 3;  // blank, equals sign, newline
    size_t length = rest + 1;
    while (std::to_string(length).size() + rest != length) ++length;
    body += std::to_string(length) + " " + key + "=" + value + "\n";
  }
  return body;
}

TarWriter& TarWriter::Raw(std::string_view bytes) {
  bytes_.append(bytes);
  return *this;
}

TarWriter& TarWriter::Add(Header header) { return Raw(Block(header)); }

TarWriter& TarWriter::Add(Header header, std::string_view data) {
  header.size = static_cast<int64_t>(data.size());
  return Raw(Block(header)).Raw(Padded(data));
}

TarWriter& TarWriter::Pax(const Records& records, char type) {
  return Add({.name = "PaxHeaders/x", .type = type}, PaxBody(records));
}

TarWriter& TarWriter::LongName(std::string_view name, char type) {
  std::string body(name);
  body.push_back('\0');
  return Add({.name = "././@LongLink", .type = type, .format = Format::kGnu}, body);
}

TarWriter& TarWriter::End() { return Raw(std::string(2 * kBlock, '\0')); }

TarWriter& TarWriter::File(std::string_view name, std::string_view data, uint32_t mode) {
  return Add({.name = std::string(name), .mode = mode}, data);
}

TarWriter& TarWriter::Dir(std::string_view name, uint32_t mode) {
  return Add({.name = std::string(name), .type = '5', .mode = mode});
}

TarWriter& TarWriter::Symlink(std::string_view name, std::string_view target) {
  return Add({.name = std::string(name), .type = '2', .mode = 0777, .link = std::string(target)});
}

TarWriter& TarWriter::HardLink(std::string_view name, std::string_view target) {
  return Add({.name = std::string(name), .type = '1', .link = std::string(target)});
}

TarWriter& TarWriter::OldGnuSparse(std::string_view name, uint64_t real_size,
                                   const std::vector<Segment>& segments, std::string_view data) {
  std::string block = Block({.name = std::string(name),
                             .type = 'S',
                             .size = static_cast<int64_t>(data.size()),
                             .format = Format::kGnu});
  std::fill(block.begin() + 329, block.begin() + 345, '\0');
  PutNumber(block, 483, 12, static_cast<int64_t>(real_size));
  size_t next = 0, at = 386, room = 4;
  std::string blocks;
  while (true) {
    for (; room > 0 && next < segments.size(); --room, ++next, at += 24) {
      PutNumber(block, at, 12, static_cast<int64_t>(segments[next].offset));
      PutNumber(block, at + 12, 12, static_cast<int64_t>(segments[next].length));
    }
    const bool more = next < segments.size();
    if (more) block[blocks.empty() ? 482 : 504] = 1;
    if (blocks.empty()) SetChecksum(block);
    blocks += block;
    if (!more) break;
    block.assign(kBlock, '\0');
    at = 0;
    room = 21;
  }
  return Raw(blocks).Raw(Padded(data));
}

}  // namespace imagefs
