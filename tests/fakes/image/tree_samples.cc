// SPDX-License-Identifier: Apache-2.0
#include "tests/fakes/image/tree_samples.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <utility>

#include "base/digest.h"
#include "base/fd.h"
#include "base/text.h"

namespace imagefs {

InodeId TreeMaker::Parent(std::string_view* path) {
  InodeId directory = Tree::kRoot;
  while (true) {
    const size_t slash = path->find('/');
    if (slash == std::string_view::npos) return directory;
    const std::string_view name = path->substr(0, slash);
    path->remove_prefix(slash + 1);
    const DirentId found = tree.Find(directory, name);
    if (found != kNoId) {
      directory = tree.dirent(found).inode;
      continue;
    }
    Inode inode;
    inode.mode = S_IFDIR | 0755;
    inode.implied = true;
    const InodeId id = tree.NewInode(inode);
    tree.Link(directory, name, id);
    directory = id;
  }
}

InodeId TreeMaker::Add(std::string_view path, Inode inode, const FileAttributes& attributes) {
  inode.mode |= attributes.permissions;
  inode.uid = attributes.uid;
  inode.gid = attributes.gid;
  inode.mtime_seconds = attributes.mtime_seconds;
  inode.mtime_nanoseconds = attributes.mtime_nanoseconds;
  if (path.empty()) {
    Inode& root = tree.inode(Tree::kRoot);
    root.mode = inode.mode;
    root.uid = inode.uid;
    root.gid = inode.gid;
    root.mtime_seconds = inode.mtime_seconds;
    root.mtime_nanoseconds = inode.mtime_nanoseconds;
    root.implied = false;
    if (!attributes.xattrs.empty()) tree.SetXattrs(Tree::kRoot, attributes.xattrs);
    return Tree::kRoot;
  }
  const InodeId parent = Parent(&path);
  const InodeId id = tree.NewInode(inode);
  tree.Link(parent, path, id);
  if (!attributes.xattrs.empty()) tree.SetXattrs(id, attributes.xattrs);
  return id;
}

InodeId TreeMaker::Dir(std::string_view path, const FileAttributes& attributes) {
  Inode inode;
  inode.mode = S_IFDIR;
  return Add(path, inode, attributes);
}

InodeId TreeMaker::File(std::string_view path, uint64_t size, std::vector<Extent> extents,
                        const FileAttributes& attributes) {
  Inode inode;
  inode.mode = S_IFREG;
  inode.size = size;
  const InodeId id = Add(path, inode, attributes);
  if (!extents.empty()) tree.SetExtents(id, std::move(extents));
  return id;
}

InodeId TreeMaker::File(std::string_view path, uint64_t size, const FileAttributes& attributes) {
  std::vector<Extent> extents;
  if (size > 0) extents.push_back({0, data_, size, 1});
  data_ += (size + 511) / 512 * 512 + 512;  // leave room for the header of the next entry
  return File(path, size, std::move(extents), attributes);
}

InodeId TreeMaker::Symlink(std::string_view path, std::string_view target,
                           const FileAttributes& attributes) {
  Inode inode;
  inode.mode = S_IFLNK;
  inode.symlink = tree.Intern(target);
  inode.size = target.size();
  return Add(path, inode, attributes);
}

InodeId TreeMaker::Node(std::string_view path, uint32_t type, uint32_t major, uint32_t minor,
                        const FileAttributes& attributes) {
  Inode inode;
  inode.mode = type;
  inode.rdev_major = major;
  inode.rdev_minor = minor;
  return Add(path, inode, attributes);
}

void TreeMaker::HardLink(std::string_view path, InodeId inode) {
  const InodeId parent = Parent(&path);
  tree.Link(parent, path, inode);
}

void TreeMaker::Whiteout(std::string_view path) {
  Node(path, S_IFCHR, 0, 0, {.permissions = 0, .mtime_seconds = 0, .mtime_nanoseconds = 0});
}

InodeId TreeMaker::Find(std::string_view path) const {
  InodeId directory = Tree::kRoot;
  while (!path.empty()) {
    const std::string_view name = path.substr(0, path.find('/'));
    path.remove_prefix(std::min(path.size(), name.size() + 1));
    const DirentId found = tree.Find(directory, name);
    if (found == kNoId) return kNoId;
    directory = tree.dirent(found).inode;
  }
  return directory;
}

std::string SampleAcl() {
  // Version 2, then tag, permissions and id of the owner, the group and others.
  return std::string(
      "\x02\x00\x00\x00"
      "\x01\x00\x07\x00\xff\xff\xff\xff"
      "\x04\x00\x05\x00\xff\xff\xff\xff"
      "\x20\x00\x04\x00\xff\xff\xff\xff",
      28);
}

namespace {

void AddNames(TreeMaker& m) {
  for (const char* name : {"!bang", "-dash", ".-between the dots", ".hidden", "..a", "...", "~",
                           "new\nline", "sp ace", "\xff\xfe", "\x01", "z"}) {
    m.File(StrCat("names/", name), 1);
  }
  m.File(StrCat("names/", std::string(255, 'n')), 3);
  m.File(StrCat("names/", std::string(254, 'n')), 3);
  for (int count : {1, 2, 18, 19, 20, 21, 22, 23, 40, 3000}) {
    m.Dir(StrCat("dirs/d", count), {.permissions = 0755, .mtime_seconds = count});
    for (int i = 0; i < count; ++i) {
      m.File(StrCat("dirs/d", count, "/entry-", i * 7919 % count), static_cast<uint64_t>(i % 700));
    }
  }
  // Last blocks of every length around the limit for inline data.
  for (int length = 150; length <= 250; ++length) {
    m.Node(StrCat("tails/t", length, "/", std::string(length, 'a')), S_IFIFO, 0, 0);
    m.Node(StrCat("tails/t", length, "/", std::string(length, 'b')), S_IFIFO, 0, 0);
  }
  m.Dir("dirs/empty", {.permissions = 01777});
  std::string deep = "deep";
  for (int i = 0; i < 60; ++i) deep += "/d";
  m.File(StrCat(deep, "/bottom"), 5);
}

void AddData(TreeMaker& m) {
  for (uint64_t size : {0, 1, 511, 512, 513, 4096, 70000}) m.File(StrCat("data/s", size), size);
  constexpr uint64_t kB = 512;
  m.File("data/hole", 100000, std::vector<Extent>{});
  m.File("data/leading hole", 8 * kB, {{4 * kB, 2 * kB, 4 * kB, 1}});
  m.File("data/trailing hole", 40 * kB + 7, {{0, 6 * kB, 16 * kB, 1}});
  m.File("data/islands", 100 * kB + 1,
         {{1 * kB, 8 * kB, 2 * kB, 1}, {10 * kB, 0, 1 * kB, 1}, {100 * kB, 9 * kB, 1, 1}});
  m.File("data/two devices", 3 * kB, {{0, 0, kB, 2}, {kB, kB, 2 * kB, 1}});
  m.File("data/jumping", 4 * kB, {{0, 3 * kB, 2 * kB, 1}, {2 * kB, 0, 2 * kB, 1}});
  m.File("data/adjacent", 4 * kB + 9, {{0, 3 * kB, 2 * kB, 1}, {2 * kB, 5 * kB, 2 * kB + 9, 1}});
  const InodeId linked = m.File("data/linked", 777, {.xattrs = {{"user.a", "b"}}});
  m.HardLink("data/again", linked);
  m.HardLink("a hard link before its file", linked);
}

void AddXattrs(TreeMaker& m) {
  m.File("x/capability", 10,
         {.permissions = 04755,
          .xattrs = {{"security.capability", std::string("\x01\0\0\x02\x20\0\0\0\0\0\0\0\0\0\0\0"
                                                         "\0\0\0\0",
                                                         20)}}});
  m.File("x/empty value", 0, {.xattrs = {{"user.empty", ""}, {"trusted.t", "\0x"}}});
  m.File("x/large", 10, {.xattrs = {{"trusted.large", FakeData(5, 3000)}}});
  std::vector<Xattr> many;
  for (int i = 0; i < 40; ++i) many.push_back({StrCat("user.n", i), FakeData(i, i * 3)});
  m.File("x/many", 10, {.xattrs = many});
  m.Dir("x/acl", {.permissions = 0754,
                  .xattrs = {{"system.posix_acl_access", SampleAcl()},
                             {"system.posix_acl_default", SampleAcl()}}});
  m.File("x/acl/child", 2);
  m.Symlink("x/link", "target", {.permissions = 0777, .xattrs = {{"trusted.on.link", "v"}}});
  for (int i = 0; i < 24; ++i) {
    m.Symlink(StrCat("x/padded", i), std::string(400, 'p'),
              {.permissions = 0777, .xattrs = {{"trusted.p", std::string(i, 'q')}}});
  }
}

}  // namespace

TreeMaker SampleTree() {
  TreeMaker m;
  m.Dir("", {.permissions = 0751, .uid = 7, .gid = 8, .mtime_seconds = -1});
  AddNames(m);
  AddData(m);
  AddXattrs(m);
  for (int length : {1, 31, 32, 33, 60, 447, 448, 449, 511, 512, 513, 900, 1024, 4095}) {
    m.Symlink(StrCat("links/l", length), std::string(length, 'l'));
  }
  m.Node("dev/null", S_IFCHR, 1, 3, {.permissions = 0666});
  m.Node("dev/big", S_IFBLK, 4095, 1048575, {.permissions = 0660, .gid = 6});
  m.Node("dev/minor", S_IFCHR, 259, 256);
  m.Node("dev/fifo", S_IFIFO, 0, 0);
  m.Node("dev/socket", S_IFSOCK, 0, 0);
  m.File("attributes/owner", 3, {.permissions = 06711, .uid = 4294967294, .gid = 70000});
  m.File("attributes/old", 3, {.mtime_seconds = -62135596800, .mtime_nanoseconds = 999'999'999});
  m.File("attributes/future", 3, {.mtime_seconds = 253402300799, .mtime_nanoseconds = 1});
  return m;
}

std::vector<DeviceSlot> SampleDevices(const TreeMaker& maker) {
  return {{std::string(64, '1'), (maker.data_size() + 511) / 512 * 512},
          {std::string(64, '2'), 4096}};
}

std::string ImageBytes(const Tree& tree, const ErofsWriterOptions& options) {
  const Fd fd(memfd_create("image", MFD_CLOEXEC));
  const absl::Status status = WriteErofs(tree, options, fd.get());
  if (!status.ok()) return std::string(status.message());
  std::string bytes(static_cast<size_t>(lseek(fd.get(), 0, SEEK_END)), '\0');
  if (!PreadFull(fd.get(), absl::MakeSpan(bytes.data(), bytes.size()), 0).ok()) return "";
  return bytes;
}

std::string LayerImage(const Tree& tree, uint64_t data_size) {
  return ImageBytes(tree, {.devices = {{std::string(64, 'd'), data_size}}, .overlay_form = true});
}

std::string FakeData(uint64_t seed, uint64_t size) {
  std::string data(size, '\0');
  uint64_t state = seed * 0x9E3779B97F4A7C15 + 1;
  for (char& c : data) {
    state = state * 6364136223846793005 + 1442695040888963407;
    c = static_cast<char>(state >> 56);
  }
  return data;
}

namespace {

struct EntryText {
  uint32_t mode = 0, uid = 0, gid = 0;
  uint64_t nlink = 0;
  int64_t seconds = 0;
  uint32_t nanoseconds = 0;
  uint64_t size = 0;
  uint32_t major = 0, minor = 0;
  std::string detail;
  std::vector<Xattr> xattrs;
};

std::string Line(std::string_view path, const EntryText& e) {
  std::string line = StrCat(Printable(path, 400), " ", absl::StrCat(absl::Hex(e.mode)), " ", e.uid,
                            ":", e.gid, " n", e.nlink, " ", e.seconds, ".", e.nanoseconds);
  if (!S_ISDIR(e.mode)) StrAppend(&line, " s", e.size);
  if (S_ISCHR(e.mode) || S_ISBLK(e.mode)) StrAppend(&line, " ", e.major, ":", e.minor);
  StrAppend(&line, e.detail);
  for (const Xattr& xattr : e.xattrs) {
    StrAppend(&line, " ", Printable(xattr.name), "=", Printable(xattr.value, 100000));
  }
  return line + "\n";
}

std::string Content(const Tree& tree, InodeId id, const std::vector<std::string>& devices) {
  std::string content(tree.inode(id).size, '\0');
  for (const Extent& extent : tree.Extents(id)) {
    content.replace(extent.file_offset, extent.length, devices[extent.device - 1],
                    extent.data_offset, extent.length);
  }
  return content;
}

std::string Detail(const Tree& tree, InodeId id, const std::vector<std::string>* devices) {
  const Inode& inode = tree.inode(id);
  std::string detail;
  if (inode.opaque) detail += " opaque";
  if (inode.implied && devices == nullptr) detail += " implied";
  if (S_ISLNK(inode.mode)) StrAppend(&detail, " -> ", Printable(inode.symlink, 5000));
  if (!S_ISREG(inode.mode)) return detail;
  if (devices != nullptr) return StrCat(" ", Sha256Of(Content(tree, id, *devices)).Short());
  Extent merged;  // merge contiguous extents
  const auto flush = [&] {
    if (merged.length > 0) {
      StrAppend(&detail, " [", merged.file_offset, "=", merged.device, ":", merged.data_offset, "+",
                merged.length, "]");
    }
  };
  for (const Extent& extent : tree.Extents(id)) {
    if (merged.length > 0 && merged.device == extent.device &&
        merged.file_offset + merged.length == extent.file_offset &&
        merged.data_offset + merged.length == extent.data_offset) {
      merged.length += extent.length;
      continue;
    }
    flush();
    merged = extent;
  }
  flush();
  return detail;
}

std::string Linked(std::string detail, const std::string& path, const std::string& first) {
  return path == first ? detail : StrCat(detail, " = ", Printable(first, 400));
}

}  // namespace

std::string TreeText(const Tree& tree, const std::vector<std::string>* devices) {
  std::map<std::string, InodeId> paths = {{"", Tree::kRoot}};
  std::map<InodeId, std::string> first_names;
  std::vector<std::pair<std::string, InodeId>> stack = {{"", Tree::kRoot}};
  std::map<InodeId, uint64_t> subdirectories;
  while (!stack.empty()) {
    const auto [path, id] = stack.back();
    stack.pop_back();
    for (const DirentId child : tree.SortedChildren(id)) {
      const Dirent& dirent = tree.dirent(child);
      const std::string child_path = StrCat(path, "/", dirent.name);
      paths[child_path] = dirent.inode;
      if (!S_ISDIR(tree.inode(dirent.inode).mode)) continue;
      ++subdirectories[id];
      stack.emplace_back(child_path, dirent.inode);
    }
  }
  for (const auto& [path, id] : paths) first_names.emplace(id, path);
  std::string text;
  for (const auto& [path, id] : paths) {
    const Inode& inode = tree.inode(id);
    EntryText entry{inode.mode,
                    inode.uid,
                    inode.gid,
                    inode.nlink,
                    inode.mtime_seconds,
                    inode.mtime_nanoseconds,
                    inode.size,
                    inode.rdev_major,
                    inode.rdev_minor,
                    Linked(Detail(tree, id, devices), path, first_names[id]),
                    {}};
    if (S_ISDIR(inode.mode)) entry.nlink = 2 + subdirectories[id];
    entry.xattrs.assign(tree.Xattrs(id).begin(), tree.Xattrs(id).end());
    text += Line(path, entry);
  }
  return text;
}

namespace {

std::vector<Xattr> FileXattrs(const std::string& path) {
  std::vector<char> names(70000);
  const ssize_t size = llistxattr(path.c_str(), names.data(), names.size());
  std::vector<Xattr> xattrs;
  for (ssize_t i = 0; i < size;) {
    const std::string name = &names[i];
    i += static_cast<ssize_t>(name.size()) + 1;
    std::vector<char> value(70000);
    const ssize_t length = lgetxattr(path.c_str(), name.c_str(), value.data(), value.size());
    xattrs.push_back({name, length < 0 ? "unreadable" : std::string(value.data(), length)});
  }
  std::sort(xattrs.begin(), xattrs.end());
  return xattrs;
}

std::string FileDetail(const std::string& path, const struct stat& st) {
  if (S_ISLNK(st.st_mode)) {
    std::string target(5000, '\0');
    const ssize_t size = readlink(path.c_str(), target.data(), target.size());
    return StrCat(" -> ",
                  Printable(std::string_view(target).substr(0, std::max<ssize_t>(size, 0)), 5000));
  }
  if (!S_ISREG(st.st_mode)) return "";
  const auto content = ReadFile(path, 1 << 28);
  return StrCat(" ", content.ok() ? Sha256Of(*content).Short() : content.status().ToString());
}

}  // namespace

std::string DirectoryText(const std::string& root) {
  std::map<std::string, struct stat> paths;
  std::map<ino_t, std::string> first_names;
  std::vector<std::string> stack = {""};
  lstat(root.c_str(), &paths[""]);
  while (!stack.empty()) {
    const std::string path = stack.back();
    stack.pop_back();
    DIR* dir = opendir((root + path).c_str());
    if (dir == nullptr) return StrCat("cannot open ", root, path);
    while (const dirent* entry = readdir(dir)) {
      const std::string name = entry->d_name;
      if (name == "." || name == "..") continue;
      const std::string child = StrCat(path, "/", name);
      struct stat st = {};
      if (lstat((root + child).c_str(), &st) != 0) return StrCat("cannot stat ", child);
      if (static_cast<mode_t>(DTTOIF(entry->d_type)) != (st.st_mode & S_IFMT))
        return StrCat("d_type of ", child);
      paths[child] = st;
      if (S_ISDIR(st.st_mode)) stack.push_back(child);
    }
    closedir(dir);
  }
  for (const auto& [path, st] : paths) first_names.emplace(st.st_ino, path);
  std::string text;
  for (const auto& [path, st] : paths) {
    const EntryText entry{st.st_mode,
                          st.st_uid,
                          st.st_gid,
                          st.st_nlink,
                          st.st_mtim.tv_sec,
                          static_cast<uint32_t>(st.st_mtim.tv_nsec),
                          static_cast<uint64_t>(st.st_size),
                          major(st.st_rdev),
                          minor(st.st_rdev),
                          Linked(FileDetail(root + path, st), path, first_names[st.st_ino]),
                          FileXattrs(root + path)};
    text += Line(path, entry);
  }
  return text;
}

}  // namespace imagefs
