/* ... to here. */
#pragma pack(pop)
