// SPDX-License-Identifier: Apache-2.0
// Builds tar archives block by block, so that tests can also write what no archiver would: any type
// flag, any field, wrong checksums, records out of order. Not thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace imagefs {

class TarWriter {
 public:
  enum class Format { kV7, kUstar, kGnu };

  // One header block. Numbers that do not fit into their field are written as base-256.
  struct Header {
    std::string name;
    char type = '0';
    uint32_t mode = 0644;
    int64_t uid = 0, gid = 0;
    int64_t size = 0;
    int64_t mtime = 0;
    std::string link;
    std::string prefix;  // ustar only
    int64_t major = 0, minor = 0;
    Format format = Format::kUstar;
  };
  using Records = std::vector<std::pair<std::string, std::string>>;
  struct Segment {
    uint64_t offset = 0, length = 0;
  };

  // The block of a header, with a correct checksum.
  static std::string Block(const Header& header);
  // Updates the checksum of a block that a test has modified.
  static void SetChecksum(std::string& block);
  // PAX records as the body of an 'x' or 'g' entry.
  static std::string PaxBody(const Records& records);

  TarWriter& Raw(std::string_view bytes);
  TarWriter& Add(Header header);                                // header only
  TarWriter& Add(Header header, std::string_view data);         // sets the size, pads the data
  TarWriter& Pax(const Records& records, char type = 'x');      // belongs to the next entry
  TarWriter& LongName(std::string_view name, char type = 'L');  // 'K' for a link's target
  TarWriter& End();                                             // two zero blocks

  TarWriter& File(std::string_view name, std::string_view data, uint32_t mode = 0644);
  TarWriter& Dir(std::string_view name, uint32_t mode = 0755);
  TarWriter& Symlink(std::string_view name, std::string_view target);
  TarWriter& HardLink(std::string_view name, std::string_view target);

  // GNU's old sparse format; `data` holds the bytes of the segments in sequence.
  TarWriter& OldGnuSparse(std::string_view name, uint64_t real_size,
                          const std::vector<Segment>& segments, std::string_view data);

  uint64_t size() const { return bytes_.size(); }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

}  // namespace imagefs
