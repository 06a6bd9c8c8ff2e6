// SPDX-License-Identifier: Apache-2.0
// Sample trees for tests of the index, and comparable text dumps of trees and real directories.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "image/erofs_writer.h"
#include "image/tree.h"

namespace imagefs {

// Default attributes of a new test file.
struct FileAttributes {
  uint32_t permissions = 0644;
  uint32_t uid = 0, gid = 0;
  int64_t mtime_seconds = 1'700'000'000;
  uint32_t mtime_nanoseconds = 123'456'789;
  std::vector<Xattr> xattrs;
};

// Adds to a tree by path ("a/b/c"); creates missing parents, marked as implied.
class TreeMaker {
 public:
  Tree tree;

  InodeId Dir(std::string_view path, const FileAttributes& attributes = {.permissions = 0755});
  InodeId File(std::string_view path, uint64_t size, std::vector<Extent> extents,
               const FileAttributes& attributes = {});
  // A file with the next `size` bytes of device 1.
  InodeId File(std::string_view path, uint64_t size, const FileAttributes& attributes = {});
  InodeId Symlink(std::string_view path, std::string_view target,
                  const FileAttributes& attributes = {.permissions = 0777});
  InodeId Node(std::string_view path, uint32_t type, uint32_t major, uint32_t minor,
               const FileAttributes& attributes = {});
  void HardLink(std::string_view path, InodeId inode);
  void Whiteout(std::string_view path);
  void Opaque(std::string_view path) { tree.inode(Find(path)).opaque = true; }
  InodeId Find(std::string_view path) const;  // kNoId if absent
  uint64_t data_size() const { return data_; }

 private:
  InodeId Add(std::string_view path, Inode inode, const FileAttributes& attributes);
  InodeId Parent(std::string_view* path);
  uint64_t data_ = 1024;
};

// Covers every variant of the format: see the .cc.
TreeMaker SampleTree();
std::vector<DeviceSlot> SampleDevices(const TreeMaker& maker);
// A value that the kernel accepts as a POSIX ACL.
std::string SampleAcl();

// The serialized image of a tree.
std::string ImageBytes(const Tree& tree, const ErofsWriterOptions& options);
// The same as one layer's index, with one device of `data_size` bytes.
std::string LayerImage(const Tree& tree, uint64_t data_size = uint64_t{1} << 30);

// One line per inode or name, sorted by path: everything visible to a container, and the extents.
// `devices`: bytes of the data files; if given, a digest of the content replaces the extents.
std::string TreeText(const Tree& tree, const std::vector<std::string>* devices = nullptr);
// The same for a directory on this machine, with digests.
std::string DirectoryText(const std::string& path);
std::string FakeData(uint64_t seed, uint64_t size);

}  // namespace imagefs
