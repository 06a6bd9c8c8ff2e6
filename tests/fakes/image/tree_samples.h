// Trees for tests of the index, and texts of trees and of real directories that can be compared.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "image/erofs_writer.h"
#include "image/tree.h"

namespace imagefs {

// What a new file of a test gets unless it says otherwise.
struct FileAttributes {
  uint32_t permissions = 0644;
  uint32_t uid = 0, gid = 0;
  int64_t mtime_seconds = 1'700'000'000;
  uint32_t mtime_nanoseconds = 123'456'789;
  std::vector<Xattr> xattrs;
};

// Adds to a tree by path; missing parents are made and marked as implied. Paths: "a/b/c".
class TreeMaker {
 public:
  Tree tree;

  InodeId Dir(std::string_view path, const FileAttributes& attributes = {.permissions = 0755});
  InodeId File(std::string_view path, uint64_t size, std::vector<Extent> extents,
               const FileAttributes& attributes = {});
  // A file whose bytes are the next ones of device 1.
  InodeId File(std::string_view path, uint64_t size, const FileAttributes& attributes = {});
  InodeId Symlink(std::string_view path, std::string_view target,
                  const FileAttributes& attributes = {.permissions = 0777});
  InodeId Node(std::string_view path, uint32_t type, uint32_t major, uint32_t minor,
               const FileAttributes& attributes = {});
  void HardLink(std::string_view path, InodeId inode);
  void Whiteout(std::string_view path);
  void Opaque(std::string_view path) { tree.inode(Find(path)).opaque = true; }
  InodeId Find(std::string_view path) const;  // kNoId when absent
  uint64_t data_size() const { return data_; }

 private:
  InodeId Add(std::string_view path, Inode inode, const FileAttributes& attributes);
  InodeId Parent(std::string_view* path);
  uint64_t data_ = 1024;
};

// Every shape that the format has: see the .cc.
TreeMaker SampleTree();
std::vector<DeviceSlot> SampleDevices(const TreeMaker& maker);
// A value that the kernel accepts as a POSIX ACL.
std::string SampleAcl();

// The image of a tree as bytes.
std::string ImageBytes(const Tree& tree, const ErofsWriterOptions& options);
// As one layer's index, with one device of `data_size` bytes.
std::string LayerImage(const Tree& tree, uint64_t data_size = uint64_t{1} << 30);

// One line an inode or name, sorted by path: everything that a container can see, and the extents.
// `devices`: bytes of the data files; when given, the digest of the content stands for the extents.
std::string TreeText(const Tree& tree, const std::vector<std::string>* devices = nullptr);
// The same of a directory of this machine, with digests.
std::string DirectoryText(const std::string& path);
std::string FakeData(uint64_t seed, uint64_t size);

}  // namespace imagefs
